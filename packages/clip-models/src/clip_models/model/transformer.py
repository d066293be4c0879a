"""The pre-norm transformer both towers are made of.

B batch, L tokens, D width, H heads, d head width. Tokens are (B, L, D), or (N, D) where captions
are packed; the layout knows which, and attends. Parameter names are OpenAI CLIP's and open_clip's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip_models.config.towers import Activation, LayerShape, TransformerConfig
from clip_models.model.layouts import Layout


class QuickGELU(nn.Module):
    """`x * sigmoid(1.702 x)`, the approximation OpenAI's CLIP weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise; any shape."""
        return x * torch.sigmoid(1.702 * x)


def make_activation(name: Activation) -> nn.Module:
    """The activation module of a config's `activation`."""
    if name == "quick_gelu":
        return QuickGELU()
    return nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")


class Attention(nn.Module):
    """Multi-head self-attention with one joint projection for query, key and value."""

    def __init__(self, width: int, num_heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = head_width
        self.in_proj_weight = nn.Parameter(torch.empty(3 * num_heads * head_width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * num_heads * head_width))
        self.out_proj = nn.Linear(num_heads * head_width, width)

    def forward(self, x: Tensor, layout: Layout, *, read: bool = False) -> Tensor:
        """Attention output (…, D) of all tokens, or with `read` of those that the tower reads."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (…, 3Hd)
        qkv = qkv.view(*x.shape[:-1], 3, self.num_heads, self.head_width)  # (…, 3, H, d)
        mixed = layout.attend(qkv, read=read)  # (…, H, d)
        return self.out_proj(mixed.flatten(-2))  # (…, D)


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.act = make_activation(activation)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        return self.c_proj(self.act(self.c_fc(x)))


class LayerScale(nn.Module):
    """A learned scale of every channel of a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        return x * self.gamma


class ResidualBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, config: TransformerConfig, shape: LayerShape) -> None:
        super().__init__()
        width, scale = config.width, config.layer_scale_init
        self.ln_1 = nn.LayerNorm(width, config.layer_norm_eps)
        self.attn = Attention(width, shape.num_heads, shape.head_width)
        self.ls_1 = nn.Identity() if scale is None else LayerScale(width, scale)
        self.ln_2 = nn.LayerNorm(width, config.layer_norm_eps)
        self.mlp = MLP(width, shape.mlp_width, config.activation)
        self.ls_2 = nn.Identity() if scale is None else LayerScale(width, scale)

    def forward(self, x: Tensor, layout: Layout, read: bool = False) -> Tensor:
        """(…, D) to (…, D), of all tokens or of those that the tower reads."""
        mixed = self.attn(self.ln_1(x), layout, read=read)
        x = (layout.take(x) if read else x) + self.ls_1(mixed)
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """A stack of residual blocks."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.resblocks = nn.ModuleList(ResidualBlock(config, shape) for shape in config.layers())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights by OpenAI CLIP's rule: depth-scaled normals, zero biases."""
        depth = max(1, len(self.resblocks))
        for block in self.resblocks:
            assert isinstance(block, ResidualBlock)
            width, hidden = block.mlp.c_fc.in_features, block.mlp.c_fc.out_features
            residual_std = width**-0.5 * (2 * depth) ** -0.5
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=residual_std * (4 * width / hidden) ** 0.5)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)

    def keys(self, x: Tensor, index: int) -> Tensor:
        """Keys (…, Hd) of tokens (…, D) in layer `index`, or in the last one."""
        block = self.resblocks[min(index, len(self.resblocks) - 1)]
        assert isinstance(block, ResidualBlock)
        weight = block.attn.in_proj_weight.chunk(3)[1]
        return F.linear(block.ln_1(x), weight, block.attn.in_proj_bias.chunk(3)[1])

    def forward(
        self, x: Tensor, layout: Layout, *, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Layers `start` to `stop`; the last layer computes only the tokens that the layout reads.

        Returns:
            (…, D) in the layout's shape; (B, 1, D) after the last layer, where the layout reads one
            token of each row.
        """
        stop = len(self.resblocks) if stop is None else stop
        for index in range(start, stop):
            block = self.resblocks[index]
            read = layout.reads and index == len(self.resblocks) - 1
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(
                    block, x, layout, read, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = block(x, layout, read)
        return layout.take(x) if layout.reads and start == len(self.resblocks) else x

"""The pre-norm transformer both towers are made of.

B batch, L tokens, D width, H heads.  Parameter names are OpenAI CLIP's and open_clip's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_models.config import Activation, TransformerConfig


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

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        """Attend: (B, L, D) to (B, L, D); `causal` lets a token see itself and the past only."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3D)
        qkv = qkv.view(
            *x.shape[:2], 3, self.num_heads, x.shape[2] // self.num_heads
        )  # (B, L, 3, H, D/H)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 × (B, H, L, D/H)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, L, D)


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.act = make_activation(activation)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return self.c_proj(self.act(self.c_fc(x)))


class ResidualBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, width: int, num_heads: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, num_heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden, activation)

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        x = x + self.attn(self.ln_1(x), causal=causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of residual blocks."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualBlock(config.width, layer.num_heads, layer.mlp_width, config.activation)
            for layer in config.layers()
        )
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

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        for block in self.resblocks:
            x = block(x, causal=causal)
        return x

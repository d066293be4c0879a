"""What is inside a tower: tokens, hidden states and attention maps.

B batch, L tokens (of an image: the class token, if there is one, and N patches), D width, H heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_models.errors import ConfigError
from clip_models.model.clip import CLIP
from clip_models.model.layouts import Padded
from clip_models.model.pooled_layers import compose_segments
from clip_models.model.transformer import Attention, ResidualBlock, Transformer
from clip_models.model.vision_transformer import VisionTransformer


class TowerFeatures(NamedTuple):
    """The inside of a transformer tower, of all tokens, whatever its feature is read from.

    After a token pooling every token has the values of its segment, and the attention to a segment
    is shared by its tokens, so that shapes are those without pooling; padding has zeros.

    Attributes:
        tokens: (B, L, D) after the last layer and, where the tower has it, the final norm.
        hidden_states: (B, L, D) each: the input of the first layer, then the output of each.
        attentions: (B, H, L, L) for each layer; every row of a token sums to one.
        grid: Rows and columns of an image's patches, which are the last tokens; None for text.
    """

    tokens: Tensor
    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...]
    grid: tuple[int, int] | None

    @property
    def patch_map(self) -> Tensor:
        """(B, D, rows, columns) of an image's patches."""
        assert self.grid is not None, "text has no grid"
        count = self.grid[0] * self.grid[1]
        return self.tokens[:, -count:].transpose(1, 2).reshape(len(self.tokens), -1, *self.grid)


def compute_image_features(model: CLIP, images: Tensor) -> TowerFeatures:
    """Inside of the image tower for normalized images (B, 3, H, W).

    Raises:
        ConfigError: The tower is convolutional.
    """
    tower = model.visual
    if not isinstance(tower, VisionTransformer):
        raise ConfigError(f"only vision transformers have tokens, got {model.config.vision.kind}")
    with _Recorder(tower.transformer, tower.pooling) as recorder:
        model.run_image_tower(images)
    patch = tower.config.patch_size
    norm = nn.Identity() if tower.config.norm_after_readout else tower.ln_post
    grid = (images.shape[2] // patch, images.shape[3] // patch)
    return recorder.collect(norm, grid)


def compute_text_features(model: CLIP, tokens: Tensor) -> TowerFeatures:
    """Inside of the text tower for token ids (B, T), padding included."""
    with _Recorder(model.transformer, model.pooling) as recorder:
        if model.pooling is not None:
            model.run_text_tower(tokens)
        else:
            x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
            model.transformer(x, Padded(causal=model.config.text.causal))
    return recorder.collect(model.ln_final, None, length=tokens.shape[1])


def compute_relevance(model: CLIP, images: Tensor, tokens: Tensor) -> Tensor:
    """Which patches raise the similarity of images (B, 3, H, W) to texts (B, T).

    The gradient of the cosine similarity times the tokens before the last layer, summed over the
    width and clipped at zero (Selvaraju et al. 2017, "Grad-CAM").

    Returns:
        (B, rows, columns), at least 0.

    Raises:
        ConfigError: The image tower is convolutional.
    """
    tower = model.visual
    if not isinstance(tower, VisionTransformer):
        raise ConfigError(f"only vision transformers have tokens, got {model.config.vision.kind}")
    with torch.enable_grad(), _Recorder(tower.transformer, tower.pooling) as recorder:
        image = model.encode_image(images.detach().requires_grad_(), normalize=True)
        text = model.encode_text(tokens, normalize=True).detach()
        before = recorder.inputs[-1]
        (gradient,) = torch.autograd.grad((image * text).sum(), before)
    gain = (gradient * before).sum(-1, keepdim=True).clamp(min=0).detach()  # (B, S, 1)
    rows, columns = (side // tower.config.patch_size for side in images.shape[2:])
    return recorder.spread(gain)[:, -rows * columns :, 0].reshape(-1, rows, columns)


class _Recorder:
    """Hooks that record what the layers see, and have the last one compute all tokens."""

    def __init__(self, transformer: Transformer, pooling: nn.ModuleList | None) -> None:
        self.transformer, self.poolings = transformer, list(pooling or ())
        self.inputs: list[Tensor] = []  # of the layers, not spread
        self.hidden: list[Tensor] = []
        self.maps: list[Tensor] = []
        self.segment_of: Tensor | None = None

    def __enter__(self) -> _Recorder:
        self.handles = []
        for block in self.transformer.resblocks:
            assert isinstance(block, ResidualBlock)
            self.handles += [
                block.register_forward_pre_hook(self._before_block),
                block.register_forward_hook(self._after_block),
                block.attn.register_forward_pre_hook(self._before_attention),
            ]
        self.handles += [part.register_forward_hook(self._after_pooling) for part in self.poolings]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def collect(
        self, norm: nn.Module, grid: tuple[int, int] | None, *, length: int | None = None
    ) -> TowerFeatures:
        """What was recorded; rows of `length` tokens, if the tower has trimmed padding."""
        missing = 0 if length is None else length - self.hidden[0].shape[1]
        hidden = tuple(F.pad(x, (0, 0, 0, missing)) for x in self.hidden)
        maps = tuple(F.pad(x, (0, missing, 0, missing)) for x in self.maps)
        return TowerFeatures(norm(hidden[-1]), hidden, maps, grid)

    def _before_block(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.inputs.append(args[0])
        if not self.hidden:
            self.hidden.append(self.spread(args[0]))
        return (args[0], args[1], False)

    def _after_block(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        self.hidden.append(self.spread(output))

    def _before_attention(self, attention: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(attention, Attention)
        x, layout = args
        weights = compute_attention(attention, x, layout)  # (B, H, S, S)
        if self.segment_of is not None:
            segments = self.segment_of.clamp(min=0)  # (B, L)
            real = self.segment_of >= 0
            sizes = real.new_zeros(weights.shape[0], weights.shape[3], dtype=x.dtype)
            sizes = sizes.scatter_add(1, segments, real.to(x.dtype)).clamp(min=1)
            shape = (*weights.shape[:2], segments.shape[1], weights.shape[3])
            weights = (weights / sizes[:, None, None]).gather(
                2, segments[:, None, :, None].expand(shape)
            )
            shape = (*weights.shape[:3], segments.shape[1])
            weights = weights.gather(3, segments[:, None, None].expand(shape))
            weights = weights * (real[:, None, :, None] & real[:, None, None])
        self.maps.append(weights)

    def _after_pooling(self, _: nn.Module, __: tuple[Any, ...], pooled: Any) -> None:
        known, further = self.segment_of, pooled.segment_of
        self.segment_of = further if known is None else compose_segments(known, further)

    def spread(self, x: Tensor) -> Tensor:
        """(B, L, D) of segments (B, S, D)."""
        if self.segment_of is None:
            return x
        index = self.segment_of.clamp(min=0)[:, :, None].expand(-1, -1, x.shape[2])
        return x.gather(1, index) * (self.segment_of >= 0)[:, :, None]


def compute_attention(attention: Attention, x: Tensor, layout: Padded) -> Tensor:
    """(B, H, L, L) attention weights of tokens (B, L, D)."""
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    qkv = qkv.view(*x.shape[:-1], 3, attention.num_heads, attention.head_width)
    query, key, _ = qkv.transpose(1, 3).unbind(2)  # 2 × (B, H, L, d)
    scores = query @ key.transpose(2, 3) / attention.head_width**0.5
    mask = layout.attention_mask(qkv[:, :, 1], read=False)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1)

"""The layers of a tower that pools its tokens. B batch, L tokens, S segments, D width."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clip_models.config.towers import PoolingConfig
from clip_models.model.layouts import Padded
from clip_models.model.transformer import Transformer
from clip_models.pooling.randomness import Randomness, pooling_uniform
from clip_models.pooling.token_pooling import PooledTokens, make_token_pooling
from clip_models.positions import Grid


class PooledRun(NamedTuple):
    """Tokens after the last layer of a tower that pools, and the segments of its first tokens.

    Attributes:
        tokens: (B, S, D), or (B, 1, D) of those that are read.
        mask: (B, S) bool, True for segments; None when all are.
        segment_of: (B, L) int64, the final segment of each token; -1 for padding.
        losses: Scalars by the names `pooling`, `pooling2`, ….
        records: Tensors to log, by the same names.
    """

    tokens: Tensor
    mask: Tensor | None
    segment_of: Tensor
    losses: dict[str, Tensor]
    records: dict[str, dict[str, Tensor]]


class PooledLayers(nn.ModuleList):
    """The poolings of a tower, and its transformer run through them."""

    def __init__(self, config: PoolingConfig, width: int) -> None:
        super().__init__(make_token_pooling(stage, width) for stage in config.stages)
        self.places = [stage.after_layer for stage in config.stages]

    def forward(
        self,
        transformer: Transformer,
        x: Tensor,
        *,
        keep_apart: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        read: Tensor | None = None,
        generator: Randomness = None,
        grids: tuple[Grid, ...] | None = None,
    ) -> PooledRun:
        """Run all layers, on fewer tokens after each pooling.

        Args:
            transformer: Layers of the tower.
            x: (B, L, D).
            keep_apart: (B, L) bool, tokens that are never pooled with others.
            mask: (B, L) bool, True for tokens, which come before all padding; None for all.
            causal: A token attends to itself and to earlier ones only.
            read: (B,) position of the token whose segment is read; None for all segments.
            generator: Randomness of the poolings, a stream for each.
            grids: Rows and columns of the patches of each row, where they differ.
        """
        segment_of = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])  # (B, L)
        losses, records = {}, {}
        start, key_bias = 0, None
        for number, (place, pooling) in enumerate(zip(self.places, self, strict=True)):
            # before the first pooling, padding of captions takes part as it does without pooling
            layout = Padded(causal, None if causal and not number else mask, key_bias)
            x = transformer(x, layout, start=start, stop=place)
            wanted: dict[str, Any] = {}
            if grids is not None and not number and getattr(pooling, "reads_grids", False):
                wanted["grids"] = grids
            if getattr(pooling, "reads_uniform", False):
                batch, length = x.shape[:2]
                wanted["uniform"] = pooling_uniform(generator, number, batch, length, x.device)
            if getattr(pooling, "reads_keys", False):
                wanted["keys"] = transformer.keys(x, place)
            pooled: PooledTokens = pooling(x, mask, keep_apart, causal, **wanted)
            keep_apart = _locate_segments(keep_apart, pooled)
            segment_of = compose_segments(segment_of, pooled.segment_of)
            key_bias = _bias_keys(segment_of, pooled)
            x, mask, start = pooled.tokens, pooled.mask, place
            name = "pooling" + (str(number + 1) if number else "")
            losses[name], records[name] = pooled.loss, pooled.record
        at = None if read is None else segment_of.gather(1, read[:, None]).squeeze(1)  # (B,)
        x = transformer(x, Padded(causal, mask, key_bias, at), start=start)
        return PooledRun(x, mask, segment_of, losses, records)


def _locate_segments(keep_apart: Tensor, pooled: PooledTokens) -> Tensor:
    """(B, S) bool: the segments of the tokens that are never pooled with others."""
    batch, size = pooled.tokens.shape[:2]
    place = torch.where(keep_apart & (pooled.segment_of >= 0), pooled.segment_of, size)
    segments = keep_apart.new_zeros(batch, size + 1).scatter(1, place, torch.ones_like(keep_apart))
    return segments[:, :size]


def compose_segments(segment_of: Tensor, further: Tensor) -> Tensor:
    """(B, L) segment of each token after one more pooling."""
    composed = further.gather(1, segment_of.clamp(min=0))
    return composed.masked_fill(segment_of < 0, -1)


def _bias_keys(segment_of: Tensor, pooled: PooledTokens) -> Tensor | None:
    """(B, S) `key_bias` in which a segment weighs as its tokens before the first pooling."""
    if pooled.key_bias is None:
        return None
    size = pooled.tokens.shape[1]
    return (
        pooled.key_bias
        + (_count_tokens(segment_of, size) / _count_tokens(pooled.segment_of, size)).log()
    )


def _count_tokens(segment_of: Tensor, size: int) -> Tensor:
    """(B, S) float32 number of tokens of each segment, 1 for an empty one."""
    place = torch.where(segment_of >= 0, segment_of, size)
    ones = torch.ones_like(place, dtype=torch.float32)
    counts = ones.new_zeros(place.shape[0], size + 1).scatter_add(1, place, ones)
    return counts[:, :size].clamp(min=1)

"""Layers on segments, between pooling and unpooling, perhaps with segments of segments inside.

B batch, L tokens, S segments with the null one, D width.

The hourglass of Nawrot et al. 2023 with, where the configuration says so, the parts that H-Net
(Hwang et al. 2025, "Dynamic Chunking for End-to-End Hierarchical Sequence Modeling") adds:
smoothing, straight-through confidence, a residual that begins at zero, norms at the end of parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dtp_pooling.language_model.attention import RelativeTerms
from dtp_pooling.language_model.block import Block
from dtp_pooling.language_model.config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.language_model.segmenter import CausalSegmenter, Segmentation
from dtp_pooling.pooling.boundaries import boundary_confidence, mask_padding
from dtp_pooling.pooling.functional import closed_segment_of, pool, smooth, unpool
from dtp_pooling.pooling.noise import Generators
from dtp_pooling.pooling.predictors import wide_linear, without_autocast

_MULTIPLE = 16

Relative = Callable[[int], RelativeTerms | None]


class SegmentedTokens(NamedTuple):
    """Tokens after the layers on their segments.

    Attributes:
        tokens: (B, L, D).
        segments: The boundaries, outermost first.
        nested_loss: Weighted boundary loss of the inner segments, a scalar.
    """

    tokens: Tensor
    segments: tuple[Segmentation, ...]
    nested_loss: Tensor


class SegmentLayers(nn.Module):
    """Pooling, layers on segments, and unpooling.

    Without pooling (kind `none`) its layers work on all tokens. `build_layers` and `build_pooling`
    make its parts, in the order that their random initial weights are drawn in.
    """

    def build_layers(self, config: LanguageModelConfig, count: int) -> None:
        """Make the layers on segments."""
        self.shortened = nn.ModuleList(Block(config) for _ in range(count))

    def build_pooling(self, config: LanguageModelConfig, boundaries: BoundaryConfig) -> None:
        """Make what cuts tokens into segments, and what leads back to tokens."""
        self.segmenter: CausalSegmenter | None = None
        self.nested: SegmentLayers | None = None
        self.residual: nn.Linear | None = None
        self.hidden_norm: nn.Module = nn.Identity()
        self.segment_norm: nn.Module = nn.Identity()
        if boundaries.kind == "none":
            return
        self.segmenter = CausalSegmenter(config.width, boundaries)
        self.null = nn.Parameter(torch.randn(config.width))
        self.pooled_norm = nn.LayerNorm(config.width)
        if config.residual == "linear":
            self.residual = nn.Linear(config.width, config.width, bias=False)
            nn.init.zeros_(self.residual.weight)
        if config.part_norms:
            self.hidden_norm = nn.RMSNorm(config.width)
            self.segment_norm = nn.RMSNorm(config.width)

    def build_nested(self, config: LanguageModelConfig) -> None:
        """Make segments of segments, if the configuration has them."""
        if config.nested_layers:
            self.nested = SegmentLayers()
            self.nested.build_layers(config, config.nested_layers)
            self.nested.build_pooling(config, config.nested)

    @property
    def halves(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """Layers on segments before and after those on segments of segments, if there are any."""
        layers = list(self.shortened)
        half = len(layers) if self.nested is None else (len(layers) + 1) // 2
        return layers[:half], layers[half:]

    def through_segments(
        self,
        hidden: Tensor,
        tokens: Tensor,
        relative: Relative,
        *,
        lengths: Tensor | None = None,
        generators: Generators = None,
        given: Tensor | None = None,
        max_segments: int | None = None,
    ) -> SegmentedTokens:
        """Tokens (B, L, D) that have read their newest finished segments.

        Args:
            hidden: (B, L, D) tokens before pooling.
            tokens: (B, L) int64 ids, which some kinds read.
            relative: Gives the shared terms of relative attention for a length.
            lengths: (B,) valid tokens; None for all.
            generators: Randomness of boundaries in training.
            given: (B, L) boundaries instead of the module's own.
            max_segments: Segments to pad every row to, null included; None for the longest row's.
        """
        assert self.segmenter is not None
        hidden = self.hidden_norm(hidden)
        segments = self.segmenter(tokens, hidden, lengths=lengths, generators=generators)
        if given is not None:
            segments = Segmentation(mask_padding(given.float(), lengths), segments.logits)
        b, config = segments.boundaries, self.segmenter.config
        size = _count_padded_segments(b) if max_segments is None else max_segments
        pooled = pool(  # (B, S, D)
            hidden, b, config.value or "mean", "drop", self.null, lengths, max_segments=size
        )
        # a shorter row's padding comes after its segments: causal attention never reads it
        y = self.pooled_norm(pooled.values)
        first, second = self.halves
        terms = relative(y.shape[1])
        y = run_blocks(first, y, terms)
        inner: tuple[Segmentation, ...] = ()
        loss = b.new_zeros(())
        if self.nested is not None:
            result = self._through_nested(y, pooled.lengths, relative, generators, max_segments)
            y, inner, loss = result.tokens, result.segments, result.nested_loss
        y = self.segment_norm(run_blocks(second, y, terms))
        if config.smooth:
            y = smooth(y, segment_probability(segments, size))
        confidence = None
        if config.confidence:
            assert segments.logits is not None
            confidence = boundary_confidence(segments.logits, b)
        back = unpool(y, closed_segment_of(b), confidence=confidence)
        return SegmentedTokens(self.add_residual(hidden, back), (segments, *inner), loss)

    def _through_nested(
        self,
        y: Tensor,
        lengths: Tensor,
        relative: Relative,
        generators: Generators,
        max_segments: int | None,
    ) -> SegmentedTokens:
        """Segments (B, S, D) that have read segments of segments, and the loss of the latter."""
        assert self.nested is not None
        assert self.nested.segmenter is not None
        ids = torch.zeros(y.shape[:2], dtype=torch.long, device=y.device)  # segments have no ids
        size = None if max_segments is None else max_segments + 1
        result = self.nested.through_segments(
            y, ids, relative, lengths=lengths, generators=generators, max_segments=size
        )
        loss = self.nested.segmenter.loss(result.segments[0], y, lengths=lengths)
        return result._replace(nested_loss=result.nested_loss + loss)

    def add_residual(self, hidden: Tensor, back: Tensor) -> Tensor:
        """Tokens from before pooling (..., D) added to what came back from segments."""
        if self.residual is None:
            return hidden + back
        with without_autocast(hidden.device.type):
            return wide_linear(self.residual, hidden).to(back.dtype) + back


def segment_probability(segments: Segmentation, size: int) -> Tensor:
    """(B, S) probability of the boundary that closes each of `size` segments; 1 for the null one.

    It is 1 for padding too.
    """
    assert segments.logits is not None
    closes = segments.boundaries > 0.5
    p = segments.logits.sigmoid().masked_fill(~closes, 1)
    # other tokens write a one to the null segment, which no token closes
    place = closed_segment_of(segments.boundaries).masked_fill(~closes, 0)
    return p.new_ones(len(p), size).scatter(1, place, p)


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, relative: RelativeTerms | None) -> Tensor:
    """(B, L, D) through transformer layers."""
    for block in blocks:
        x, _ = block(x, relative)
    return x


def _count_padded_segments(boundaries: Tensor) -> int:
    """Segments of the longest row, null included, up to a multiple of what kernels vectorize by.

    A remainder after full vectors rounds differently, and would reveal the length of the future.
    """
    longest = int((boundaries > 0.5).sum(1).max()) if len(boundaries) else 0
    return (longest // _MULTIPLE + 1) * _MULTIPLE

"""Token pooling as a module between two layers of an image or text tower.

B batch, L tokens, S segments, D width.

The contract of the entry-point group `clip_models.token_pooling`: a callable `(width, **settings)`
gives a module that is called with tokens (B, L, D), a mask (B, L) of real tokens or None, the
tokens (B, L) that are kept as segments of one token (class token, end token) and whether the tower
is causal; it returns `PooledTokens`. With a true attribute `reads_uniform` it is also called with
`uniform` (B, L), a random number for each token, with a true `reads_keys` with `keys` (B, L, ·),
those of the next attention layer, and for images of their own shape, with a true `reads_grids`,
with `grids`, the rows and columns of patches of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dtp_pooling.pooling.functional import Pooled, pool
from dtp_pooling.pooling.noise import row_keys
from dtp_pooling.pooling.predictors import CosinePredictor, MLPPredictor, make_predictor
from dtp_pooling.pooling.segment_plan import is_exported
from dtp_pooling.pooling.splitmix64 import hashed_uniform
from dtp_pooling.strict_config import from_dict
from dtp_pooling.towers.boundary_choice import choose_boundaries, tower_rate_loss
from dtp_pooling.towers.boundary_constraints import (
    BoundaryConstraints,
    count_segments,
    find_constraints,
)
from dtp_pooling.towers.config import LEARNED, TokenPoolingConfig
from dtp_pooling.towers.input_checks import check_inputs
from dtp_pooling.towers.pooled_tokens import PooledTokens, make_record
from dtp_pooling.towers.token_order import order_patches, order_rows
from dtp_pooling.towers.unsure_segments import blend_unsure_segments


class DynamicTokenPooling(nn.Module):
    """Means of segments of tokens; a sample's result does not depend on its batch.

    Args:
        width: D.
        config: Kind, rate and order.
    """

    def __init__(self, width: int, config: TokenPoolingConfig) -> None:
        super().__init__()
        self.config = config
        self.scores: MLPPredictor | CosinePredictor | None = None
        if config.kind == "routing":
            self.scores = CosinePredictor(width)
        elif config.kind in LEARNED:
            self.scores = make_predictor(config.scores, width, config.hidden)

    @property
    def reads_keys(self) -> bool:
        """Whether segments are decided by the keys of the next attention layer."""
        return self.config.compare == "keys"

    @property
    def reads_uniform(self) -> bool:
        """Whether segments are decided by random numbers that the tower gives, in training."""
        return self.training and self._is_random

    @property
    def reads_grids(self) -> bool:
        """Whether the order of the sequence follows from the grid of each image's patches."""
        return self.config.order != "raster"

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        keep_apart: Tensor | None = None,
        causal: bool = False,
        *,
        uniform: Tensor | None = None,
        keys: Tensor | None = None,
        grids: Sequence[tuple[int, int]] | None = None,
    ) -> PooledTokens:
        """Pooled tokens; the segments of a row follow the order of the sequence.

        Args:
            tokens: (B, L, D).
            mask: (B, L) bool, True for real tokens, which come before all padding; None for all.
            keep_apart: (B, L) bool, True for tokens that stay segments of one token.
            causal: No boundary may depend on a later token's content; `top_k`, `dissimilarity`
                and grid orders are refused.
            uniform: (B, L) float32 in the open interval (0, 1), a number for each place of the
                sequence, for training; None draws them from torch's global generator.
            keys: (B, L, ·) what to compare with `compare="keys"`.
            grids: Rows and columns of the patches of each image, B pairs; None for the same of all,
                which the configuration says.

        Raises:
            ValueError: Shapes disagree, or the kind does not fit a causal tower.
        """
        if tokens.is_meta:
            return self._forward_on_meta(tokens, keep_apart)
        needs_whole = grids is None
        check_inputs(self.config, tokens, mask, keep_apart, causal, uniform, keys, needs_whole)
        compared = keys if self.reads_keys and keys is not None else tokens
        apart = torch.zeros_like(tokens[..., 0]).bool() if keep_apart is None else keep_apart
        lengths = None if mask is None else mask.sum(1)
        order = self._find_order(apart, lengths, grids)
        if order is not None:
            tokens, compared = _take(tokens, order), _take(compared, order)
            apart = apart.gather(1, order)
        constraints = find_constraints(apart, lengths)
        boundaries, logits = self._decide(compared, constraints, lengths, causal, uniform)
        pooled = pool(tokens, boundaries, lengths=lengths, max_segments=self.config.max_segments)
        if logits is not None and (self.config.smooth or self.config.confidence):
            values = blend_unsure_segments(
                self.config, pooled, boundaries, logits, constraints, lengths
            )
            pooled = pooled._replace(values=values)
        loss = tower_rate_loss(self.config, boundaries, logits, constraints)
        record = make_record(pooled.counts, pooled.lengths, boundaries, constraints)
        return self._collect(pooled, order, loss, record)

    def measured_sizes(self) -> dict[str, int]:
        """The setting `hidden`, where the predictor has another width now than it says."""
        if not isinstance(self.scores, MLPPredictor):
            return {}
        width = self.scores.hidden.out_features
        said = self.config.hidden or 4 * self.scores.hidden.in_features
        return {} if width == said else {"hidden": width}

    @property
    def _is_random(self) -> bool:
        """Whether random numbers decide, in training or in evaluation."""
        config = self.config
        if config.kind == "random":
            return True
        if self.training:
            return config.kind in ("top_k", "gumbel") and config.sample
        return config.kind == "gumbel" and config.evaluation == "pattern"

    def _find_order(
        self,
        apart: Tensor,
        lengths: Tensor | None,
        grids: Sequence[tuple[int, int]] | None,
    ) -> Tensor | None:
        """(B, L) token at each place of each sequence; None for the order that they came in."""
        if grids is not None:
            return order_rows(apart, lengths, self.config.order, grids)
        order = order_patches(apart, self.config.order, self.config.grid)
        return None if order is None else order.expand(len(apart), -1)

    def _decide(
        self,
        compared: Tensor,
        constraints: BoundaryConstraints,
        lengths: Tensor | None,
        causal: bool,
        uniform: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, L) boundaries by tokens or keys (B, L, ·), and the predictor's logits."""
        logits = None
        if isinstance(self.scores, CosinePredictor):
            logits = self.scores(compared, lengths, causal=causal)
        elif self.scores is not None:
            logits = self.scores(compared)
        drawn = self._draw(uniform, compared) if self._is_random else None
        chosen = choose_boundaries(self.config, compared, logits, constraints, causal, drawn)
        forced = constraints.forced.to(chosen.dtype)
        return torch.where(constraints.candidates, chosen, forced), logits

    def _draw(self, uniform: Tensor | None, tokens: Tensor) -> Tensor:
        """(B, L) the numbers given for training, or in evaluation those of the seed."""
        batch, length = tokens.shape[:2]
        if self.training and uniform is not None:
            return uniform
        if self.training:
            keys = row_keys(batch, None, tokens.device)
        else:
            keys = torch.full((batch,), self.config.seed, device=tokens.device)
        return hashed_uniform(keys, length)

    def _forward_on_meta(self, tokens: Tensor, keep_apart: Tensor | None) -> PooledTokens:
        """Shapes and FLOPs, without values that would give the number of segments.

        It is the number aimed at, plus one if any token may be kept apart.
        """
        batch, length, _ = tokens.shape
        apart = int(keep_apart is not None)
        poolable = length - apart
        size = apart + max(min(poolable, 1), count_segments(poolable, self.config.rate))
        values = tokens.narrow(1, 0, size)
        if self.scores is not None:
            values = values + self.scores(tokens).mean()  # so that the backward pass meets them
        counts = tokens.new_empty(batch, size, dtype=torch.long)
        scalar = tokens.new_zeros(())
        record = {"counts": counts, "rate": scalar, "shortening": scalar, "tokens": scalar}
        segment_of = tokens.new_empty(batch, length, dtype=torch.long)
        bias = counts.float() if self.config.proportional else None
        return PooledTokens(values, None, segment_of, bias, scalar, record)

    def _collect(
        self, pooled: Pooled, order: Tensor | None, loss: Tensor, record: dict[str, Tensor]
    ) -> PooledTokens:
        """The result, its `segment_of` in the order that the tokens came in."""
        segment_of = pooled.segment_of
        if order is not None:
            segment_of = torch.empty_like(segment_of).scatter_(1, order, segment_of)
        is_static = is_exported() or (
            self.config.max_segments is not None and torch.compiler.is_compiling()
        )
        every_row_is_full = not is_static and bool(pooled.mask.all())
        mask = None if every_row_is_full else pooled.mask
        bias = pooled.counts.float().log() if self.config.proportional else None
        return PooledTokens(pooled.values, mask, segment_of, bias, loss, record)


def _take(x: Tensor, order: Tensor) -> Tensor:
    """(B, L, D) in the order (B, L)."""
    return x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))


def token_pooling(width: int, **settings: Any) -> DynamicTokenPooling:
    """The module for a tower of the given width; settings are those of `TokenPoolingConfig`."""
    return DynamicTokenPooling(width, from_dict(TokenPoolingConfig, settings))

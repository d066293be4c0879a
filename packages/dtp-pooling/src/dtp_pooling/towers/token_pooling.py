"""Token pooling inside image and text towers.

B batch, L tokens, S segments, D width.

The contract of the entry-point group `clip_models.token_pooling`: a callable `(width, **settings)`
gives a module that is called with tokens (B, L, D), a mask (B, L) of real tokens or None, the
positions (B, L) that must stay apart (class token, end token) and whether the tower is causal; it
returns `PooledTokens`. With a true attribute `reads_uniform` it gets `uniform` (B, L) too, a random
number for each token, and with `reads_keys` `keys` (B, L, ·), those of the next attention layer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dtp_pooling.pooling import boundaries as rules
from dtp_pooling.pooling import losses, noise
from dtp_pooling.pooling.functional import Pooled, pool
from dtp_pooling.strict_config import from_dict
from dtp_pooling.towers.config import TokenPoolingConfig
from dtp_pooling.towers.token_cuts import Cuts, cuts_of, even_boundaries, free_count, segment_count
from dtp_pooling.towers.token_order import grid_order


class PooledTokens(NamedTuple):
    """Fewer tokens and where the old ones went.

    Attributes:
        tokens: (B, S, D), zero where there is no segment.
        mask: (B, S) bool, True for segments; None when every row has S.
        segment_of: (B, L) int64 segment of each token in the order they came; -1 where masked.
        key_bias: (B, S) to add to attention scores, or None. `proportional` gives the logarithm of
            the counts (Bolya et al. 2023, "Token Merging", equation 1), minus infinity for none;
            behind an earlier pooling, clip-models' towers make them counts of their own tokens.
        loss: Scalar to add to the task's loss.
        record: `counts` (B, S) tokens of each segment, 0 for none; scalars `rate`, segments per
            poolable token, `shortening`, tokens per segment with those kept apart, and `tokens`,
            S, which is what the layers behind compute for every row.
    """

    tokens: Tensor
    mask: Tensor | None
    segment_of: Tensor
    key_bias: Tensor | None
    loss: Tensor
    record: dict[str, Tensor]


class DynamicTokenPooling(nn.Module):
    """Means of stretches of tokens; a sample's result does not depend on its batch.

    Args:
        width: D.
        config: Kind, rate and order.
    """

    def __init__(self, width: int, config: TokenPoolingConfig) -> None:
        super().__init__()
        self.config = config
        self.scores: rules.MLPScores | rules.CosineScores | None = None
        if config.kind in ("top_k", "gumbel"):
            self.scores = (
                rules.MLPScores(width, config.hidden)
                if config.scores == "mlp"
                else rules.CosineScores(width)
            )

    @property
    def reads_keys(self) -> bool:
        """Whether segments are decided by the keys of the layer behind."""
        return self.config.compare == "keys"

    @property
    def reads_uniform(self) -> bool:
        """Whether random numbers decide the segments; in evaluation they are the seed's."""
        config = self.config
        samples = config.kind in ("top_k", "gumbel") and config.sample
        return self.training and (samples or config.kind == "random")

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        keep_apart: Tensor | None = None,
        causal: bool = False,
        *,
        uniform: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> PooledTokens:
        """Pooled tokens; the segments of a row follow the order of the sequence.

        Args:
            tokens: (B, L, D).
            mask: (B, L) bool, True for real tokens, which come before all padding; None for all.
            keep_apart: (B, L) bool, True for tokens that stay segments of their own.
            causal: No boundary may depend on a later token's content; `top_k`, `dissimilarity`
                and grid orders are refused.
            uniform: (B, L) float32 in the open interval (0, 1), a number for each place of the
                sequence, for training; None draws them from torch's global generator.
            keys: (B, L, ·) what to compare with `compare="keys"`.

        Raises:
            ValueError: Shapes disagree, or the kind does not fit a causal tower.
        """
        if tokens.is_meta:
            return self._outline(tokens, keep_apart)
        self._check(tokens, mask, keep_apart, causal, uniform)
        compared = self._compared(tokens, keys)
        apart = torch.zeros_like(tokens[..., 0], dtype=torch.bool)
        apart = apart if keep_apart is None else keep_apart
        lengths = None if mask is None else mask.sum(1)
        order = self._sequence(apart)
        if order is not None:
            tokens, compared, apart = tokens[:, order], compared[:, order], apart[:, order]
        cuts = cuts_of(apart, lengths)
        free, logits = self._decide(compared, cuts, lengths, causal, uniform)
        boundaries = torch.where(cuts.candidates, free, cuts.forced.to(free.dtype))
        pooled = pool(tokens, boundaries, lengths=lengths, max_segments=self.config.max_segments)
        segment_of = pooled.segment_of
        if order is not None:
            segment_of = torch.empty_like(segment_of).index_copy_(1, order, segment_of)
        bias = pooled.counts.float().log() if self.config.proportional else None
        return PooledTokens(
            pooled.values,
            self._mask_of(pooled, mask),
            segment_of,
            bias,
            self._loss(boundaries, logits, cuts),
            _record(pooled.counts, pooled.lengths, boundaries, cuts),
        )

    def _outline(self, tokens: Tensor, keep_apart: Tensor | None) -> PooledTokens:
        """Shapes and FLOPs on the meta device, where no value says how many segments there are.

        Their number is the one aimed at, with one token apart where any may be.
        """
        batch, length, _ = tokens.shape
        apart = int(keep_apart is not None)
        poolable = length - apart
        size = apart + max(min(poolable, 1), segment_count(poolable, self.config.rate))
        values = tokens.narrow(1, 0, size)
        if self.scores is not None:
            values = values + self.scores(tokens).mean()  # so that the backward pass meets them
        counts = tokens.new_empty(batch, size, dtype=torch.long)
        scalar = tokens.new_zeros(())
        record = {"counts": counts, "rate": scalar, "shortening": scalar, "tokens": scalar}
        segment_of = tokens.new_empty(batch, length, dtype=torch.long)
        bias = counts.float() if self.config.proportional else None
        return PooledTokens(values, None, segment_of, bias, scalar, record)

    def _decide(
        self,
        tokens: Tensor,
        cuts: Cuts,
        lengths: Tensor | None,
        causal: bool,
        uniform: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, L) boundaries by tokens or keys, of which only candidates count, and logits."""
        config = self.config
        logits, scores = None, self.scores
        if isinstance(scores, rules.CosineScores):
            logits = scores(tokens, lengths, causal=causal)
        elif scores is not None:
            logits = scores(tokens)
        drawing = config.sample if self.training else config.evaluation == "pattern"
        if config.kind == "gumbel":
            assert logits is not None
            drawn = noise.as_logistic(self._drawn(uniform, tokens)) if drawing else None
            return rules.gumbel_boundaries(logits, config.temperature, drawn), logits
        if config.kind == "fixed":
            return even_boundaries(cuts.poolable, config.rate, causal), None
        if config.kind == "random":
            uniform = self._drawn(uniform, tokens)
            if causal:
                return rules.random_boundaries(uniform, config.rate), None
            count = free_count(cuts, config.rate)
            return rules.top_k_boundaries(uniform, count, cuts.candidates), None
        drawn = None
        if logits is None:
            ranking = neighbour_dissimilarity(tokens)
        else:
            ranking = logits
            if self.training and config.sample:
                drawn = noise.as_logistic(self._drawn(uniform, tokens))
        count = free_count(cuts, config.rate)
        free = rules.top_k_boundaries(ranking, count, cuts.candidates, config.temperature, drawn)
        return (free.detach() if logits is None else free), logits

    def _drawn(self, uniform: Tensor | None, tokens: Tensor) -> Tensor:
        """(B, L) the numbers given for training, or in evaluation those of the seed."""
        batch, length = tokens.shape[:2]
        if not self.training:
            keys = torch.full((batch,), self.config.seed, device=tokens.device)
            return noise.uniform(keys, length)
        if uniform is None:
            return noise.uniform(noise.row_keys(batch, None, tokens.device), length)
        return uniform

    def _loss(self, boundaries: Tensor, logits: Tensor | None, cuts: Cuts) -> Tensor:
        """Rate loss over the poolable tokens of each row; zero for exact kinds."""
        config = self.config
        if config.kind != "gumbel" or logits is None:
            return boundaries.new_zeros(())
        first = (~cuts.poolable).long().argsort(dim=1, stable=True)  # poolable tokens to the front
        b, z, n = boundaries.gather(1, first), logits.gather(1, first), cuts.poolable.sum(1)
        if config.rate_loss == "binomial":
            loss = losses.binomial_prior(b, config.rate, n)
        elif config.rate_loss == "ratio":
            loss = losses.ratio_loss(b, z, 1 / config.rate, n)
        else:
            loss = losses.interval_loss(b, *config.interval, n)
        return config.weight * loss

    def _sequence(self, apart: Tensor) -> Tensor | None:
        """(L,) token at each place of the sequence; None for the order they came in."""
        if self.config.order == "raster" or not len(apart):
            return None
        patches = (~apart[0]).nonzero().flatten()
        count = patches.numel()
        grid = self.config.grid or (int(count**0.5), int(count**0.5))
        if grid[0] * grid[1] != count:
            raise ValueError(
                f"order={self.config.order!r} needs a grid of {grid[0]} x {grid[1]} patches, got "
                f"{count}; set grid, or order='raster' when patches were dropped or pooled before"
            )
        order = torch.arange(apart.shape[1], device=apart.device)
        curve = grid_order(*grid, self.config.order).to(apart.device)
        return order.index_copy(0, patches, patches[curve])

    def _mask_of(self, pooled: Pooled, mask: Tensor | None) -> Tensor | None:
        """(B, S) which segments there are; None when every row has all S."""
        if self.config.max_segments is not None and torch.compiler.is_compiling():
            return pooled.mask
        return None if bool(pooled.mask.all()) else pooled.mask

    def _compared(self, tokens: Tensor, keys: Tensor | None) -> Tensor:
        """(B, L, ·) what segments are decided by."""
        if not self.reads_keys:
            return tokens
        if keys is None or keys.shape[:2] != tokens.shape[:2]:
            raise ValueError(
                f"compare='keys' needs keys (B, L, ·) for tokens {tuple(tokens.shape)}, got "
                f"{None if keys is None else tuple(keys.shape)}; without an attention layer use "
                "compare='tokens'"
            )
        return keys

    def _check(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        keep_apart: Tensor | None,
        causal: bool,
        uniform: Tensor | None,
    ) -> None:
        if tokens.dim() != 3:
            raise ValueError(f"tokens must be (B, L, D), got {tuple(tokens.shape)}")
        for name, given in (("mask", mask), ("keep_apart", keep_apart)):
            if given is not None and (given.shape != tokens.shape[:2] or given.dtype != torch.bool):
                raise ValueError(
                    f"{name} must be a bool (B, L) = {tuple(tokens.shape[:2])}, got "
                    f"{given.dtype} {tuple(given.shape)}"
                )
        if uniform is not None and uniform.shape != tokens.shape[:2]:
            raise ValueError(
                f"uniform must be (B, L) = {tuple(tokens.shape[:2])}, got {tuple(uniform.shape)}"
            )
        config = self.config
        if causal and config.kind in ("top_k", "dissimilarity"):
            raise ValueError(
                f"kind={config.kind!r} looks at later tokens and would leak them in a causal "
                "tower; use 'gumbel', 'fixed' or 'random'"
            )
        if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise ValueError("mask has real tokens after padding; pad at the end of rows")
        if config.order != "raster":
            same = keep_apart is None or bool((keep_apart == keep_apart[:1]).all())
            if causal or mask is not None or not same:
                raise ValueError(
                    f"order={config.order!r} is for whole images with the same tokens apart in "
                    "every row; use order='raster'"
                )


def token_pooling(width: int, **settings: Any) -> DynamicTokenPooling:
    """The module for a tower of the given width; settings are those of `TokenPoolingConfig`."""
    return DynamicTokenPooling(width, from_dict(TokenPoolingConfig, settings))


def neighbour_dissimilarity(features: Tensor) -> Tensor:
    """(B, L) float32 logits that grow with the angle between a token and the next; last is 0.

    Args:
        features: (B, L, D) tokens, or keys of an attention layer.
    """
    logits = rules.dissimilarity_logits(features[:, :-1], features[:, 1:])
    return nn.functional.pad(logits, (0, 1))[:, : features.shape[1]]


def _record(counts: Tensor, segments: Tensor, boundaries: Tensor, cuts: Cuts) -> dict[str, Tensor]:
    poolable = cuts.poolable.sum().clamp(min=1)
    real = (cuts.poolable | cuts.forced).sum()
    return {
        "counts": counts,
        "rate": (boundaries.detach() * cuts.poolable).sum() / poolable,
        "shortening": real / segments.sum().clamp(min=1),
        "tokens": boundaries.new_full((), counts.shape[1]),
    }

"""What a token pooling returns to its tower.

B batch, L tokens, S segments, D width.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dtp_pooling.towers.boundary_constraints import BoundaryConstraints


class PooledTokens(NamedTuple):
    """Pooled tokens, and the segment of each token.

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
            S, the number of tokens that later layers compute for every row.
    """

    tokens: Tensor
    mask: Tensor | None
    segment_of: Tensor
    key_bias: Tensor | None
    loss: Tensor
    record: dict[str, Tensor]


def make_record(
    counts: Tensor, segments: Tensor, boundaries: Tensor, constraints: BoundaryConstraints
) -> dict[str, Tensor]:
    """`PooledTokens.record` of a pooling.

    Args:
        counts: (B, S) tokens of each segment.
        segments: (B,) segments of each row.
        boundaries: (B, L) zeros and ones.
        constraints: Which tokens are poolable.
    """
    poolable = constraints.poolable.sum().clamp(min=1)
    real = (constraints.poolable | constraints.forced).sum()
    return {
        "counts": counts,
        "rate": (boundaries.detach() * constraints.poolable).sum() / poolable,
        "shortening": real / segments.sum().clamp(min=1),
        "tokens": boundaries.new_full((), counts.shape[1]),
    }

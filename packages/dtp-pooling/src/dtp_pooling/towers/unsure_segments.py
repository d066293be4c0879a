"""Smoothing and confidence of pooled tokens. B batch, L tokens, S segments, D width."""

from __future__ import annotations

import torch
from torch import Tensor

from dtp_pooling.pooling.boundaries import boundary_confidence
from dtp_pooling.pooling.functional import Pooled, pool, smooth
from dtp_pooling.towers.boundary_constraints import BoundaryConstraints
from dtp_pooling.towers.config import TokenPoolingConfig


def blend_unsure_segments(
    config: TokenPoolingConfig,
    pooled: Pooled,
    boundaries: Tensor,
    logits: Tensor,
    constraints: BoundaryConstraints,
    lengths: Tensor | None,
) -> Tensor:
    """(B, S, D) values of segments, blended and weighted as the configuration says.

    With `smooth` a segment is averaged exponentially with those before it, weighted by the
    probability of the boundary *between* them, which is one where the boundary is forced. With
    `confidence` it is multiplied by one, with the gradient of a multiplication by the mean
    probability of what was decided about its tokens. Both are H-Net's (Hwang et al. 2025), which
    has them after the layers on segments; a tower does not go back to tokens, so here they are
    before.

    Args:
        config: Whether to smooth, and whether to weigh.
        pooled: Means of the segments, padded.
        boundaries: (B, L) zeros and ones.
        logits: (B, L) of the boundary predictor.
        constraints: Candidates; what is decided elsewhere is certain.
        lengths: (B,) real tokens of each row; None for all.
    """
    values, size = pooled.values, pooled.values.shape[1]
    exists = (pooled.counts > 0)[..., None]
    if config.smooth:
        p = logits.sigmoid().masked_fill(~constraints.candidates, 1)[..., None]
        closing = pool(p, boundaries, "last", lengths=lengths, max_segments=size).values[..., 0]
        between = torch.cat([torch.ones_like(closing[:, :1]), closing[:, :-1]], 1)[:, :size]
        between = between.masked_fill(~exists[..., 0], 1)
        certain = (between == 1)[..., None]
        values = torch.where(certain, values, smooth(values, between)).masked_fill(~exists, 0)
    if config.confidence:
        sure = boundary_confidence(logits, boundaries).masked_fill(~constraints.candidates, 1)
        mean = pool(sure[..., None], boundaries.detach(), lengths=lengths, max_segments=size).values
        values = values * (1 + (mean - mean.detach())).to(values.dtype)
    return values

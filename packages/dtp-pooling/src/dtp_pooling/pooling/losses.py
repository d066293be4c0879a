"""Auxiliary losses that decide how many boundaries there are, or where.

B batch, L tokens. Every loss is computed per row over its valid tokens, in at least float32, and
averaged over the rows, so a row's loss does not depend on padding. `lengths` (B,) says how many
tokens are valid.
"""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dtp_pooling.pooling.boundaries import mask_padding
from dtp_pooling.pooling.boundary_settings import BoundaryTarget, RateLoss


def rate_loss(
    kind: RateLoss,
    boundaries: Tensor,
    logits: Tensor,
    rate: float,
    interval: tuple[float, float],
    lengths: Tensor | None = None,
) -> Tensor:
    """The loss of a configuration that holds the share of boundaries at a rate.

    Args:
        kind: `binomial` (prior), `ratio` or `interval`.
        boundaries: (B, L) zeros and ones.
        logits: (B, L) of the boundary probabilities.
        rate: Share of boundaries aimed at.
        interval: Lowest and highest share, for `interval`.
        lengths: (B,) valid tokens, or None for all.
    """
    if kind == "binomial":
        return binomial_prior(boundaries, rate, lengths)
    if kind == "ratio":
        return ratio_loss(boundaries, logits, 1 / rate, lengths)
    return interval_loss(boundaries, *interval, lengths)


def binomial_prior(boundaries: Tensor, rate: float, lengths: Tensor | None = None) -> Tensor:
    """Mean of -log Binomial(k; n, rate) / n over the rows, k being a row's boundaries.

    Nawrot et al. 2023, section 3.1. Differentiable in k through the log-gamma function, so it
    reaches the predictor through straight-through boundaries.

    Args:
        boundaries: (B, L) zeros and ones.
        rate: Expected share of boundaries, in (0, 1).
        lengths: (B,) valid tokens, or None for all.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate must be in (0, 1), got {rate}; the prior is undefined at its ends")
    n = _count_valid(boundaries, lengths)
    k = _mask_invalid(boundaries, lengths).sum(1)
    log_choose = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    log_probability = log_choose + k * math.log(rate) + (n - k) * math.log1p(-rate)
    return (-log_probability / n.clamp(min=1)).mean()


def ratio_loss(
    boundaries: Tensor, logits: Tensor, ratio: float, lengths: Tensor | None = None
) -> Tensor:
    """Mean of N / (N - 1) [(N - 1) F G + (1 - F) (1 - G)]; 1 at F = G = 1 / N.

    H-Net (Hwang et al. 2025): F is the share of boundaries, without gradient, G the mean
    probability. Deviation: F and G are those of a row, not of the batch.

    Args:
        boundaries: (B, L) zeros and ones.
        logits: (B, L) of the boundary probabilities.
        ratio: N, tokens per segment aimed at, above 1.
        lengths: (B,) valid tokens, or None for all.
    """
    if ratio <= 1:
        raise ValueError(f"ratio must be above 1 token per segment, got {ratio}")
    n = _count_valid(logits, lengths).clamp(min=1)
    share = _mask_invalid(boundaries.detach(), lengths).sum(1) / n
    mean = _mask_invalid(_widen(logits).sigmoid(), lengths).sum(1) / n
    loss = (ratio - 1) * share * mean + (1 - share) * (1 - mean)
    return (loss * ratio / (ratio - 1)).mean()


def interval_loss(
    boundaries: Tensor, low: float, high: float, lengths: Tensor | None = None
) -> Tensor:
    """Mean distance of the rows' share of boundaries to the interval [low, high]; 0 inside."""
    if not 0 <= low <= high <= 1:
        raise ValueError(f"expected 0 <= low <= high <= 1, got low={low}, high={high}")
    n = _count_valid(boundaries, lengths).clamp(min=1)
    share = _mask_invalid(boundaries, lengths).sum(1) / n
    return (F.relu(low - share) + F.relu(share - high)).mean()


def boundary_bce(
    logits: Tensor,
    targets: Tensor,
    mode: BoundaryTarget = "logits",
    lengths: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of the predicted boundaries against given ones.

    Args:
        logits: (B, L).
        targets: (B, L) zeros and ones.
        mode: `logits` is the cross-entropy of sigmoid(logits). `double_sigmoid` is what the
            reference implementation computes: the cross-entropy of sigmoid(sigmoid(logits)),
            whose optimum calls a boundary only where it is more likely than sigmoid(1/2) = 0.62.
        lengths: (B,) valid tokens, or None for all.
    """
    if mode not in get_args(BoundaryTarget):
        raise ValueError(f"mode must be one of {get_args(BoundaryTarget)}, got {mode!r}")
    logits = _widen(logits)
    scores = logits.sigmoid() if mode == "double_sigmoid" else logits
    each = F.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype), reduction="none")
    n = _count_valid(logits, lengths).clamp(min=1)
    return (_mask_invalid(each, lengths).sum(1) / n).mean()


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _count_valid(like: Tensor, lengths: Tensor | None) -> Tensor:
    """(B,) valid tokens of each row, in at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    if lengths is None:
        return torch.full((like.shape[0],), like.shape[1], dtype=dtype, device=like.device)
    return lengths.to(dtype)


def _mask_invalid(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, L) in at least float32, zeros beyond each row's length."""
    return mask_padding(_widen(x), lengths)

"""Boundaries among a tower's tokens by configuration, and what holds them at their rate.

B batch, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtp_pooling.pooling import boundaries as rules
from dtp_pooling.pooling.losses import rate_loss
from dtp_pooling.pooling.noise import logistic_noise
from dtp_pooling.pooling.predictors import dissimilarity_logits
from dtp_pooling.towers.boundary_constraints import (
    BoundaryConstraints,
    count_free_boundaries,
    even_boundaries,
)
from dtp_pooling.towers.config import TokenPoolingConfig


def choose_boundaries(
    config: TokenPoolingConfig,
    features: Tensor,
    logits: Tensor | None,
    constraints: BoundaryConstraints,
    causal: bool,
    uniform: Tensor | None,
) -> Tensor:
    """(B, L) boundaries, of which only those at candidates count.

    Args:
        config: Kind, rate and temperature.
        features: (B, L, D) tokens or keys, which `dissimilarity` compares.
        logits: (B, L) of the boundary predictor, for kinds that have one.
        constraints: Candidates, and boundaries that are forced.
        causal: No boundary may depend on a later token.
        uniform: (B, L) in the open interval (0, 1) where boundaries are drawn; None where not.
    """
    if config.kind == "fixed":
        return even_boundaries(constraints.poolable, config.rate, causal)
    if config.kind == "random" and causal:
        assert uniform is not None
        return rules.random_boundaries(uniform, config.rate)
    count = count_free_boundaries(constraints, config.rate)
    if config.kind == "random":
        assert uniform is not None
        return rules.top_k_boundaries(uniform, count, constraints.candidates)
    if config.kind == "dissimilarity":
        ranking = neighbor_dissimilarity(features)
        chosen = rules.top_k_boundaries(ranking, count, constraints.candidates, config.temperature)
        return chosen.detach()
    assert logits is not None
    if config.kind == "routing":
        return rules.routing_boundaries(logits)
    drawn = None if uniform is None else logistic_noise(uniform)
    if config.kind == "gumbel":
        return rules.gumbel_boundaries(logits, config.temperature, drawn)
    return rules.top_k_boundaries(logits, count, constraints.candidates, config.temperature, drawn)


def tower_rate_loss(
    config: TokenPoolingConfig,
    boundaries: Tensor,
    logits: Tensor | None,
    constraints: BoundaryConstraints,
) -> Tensor:
    """Weighted rate loss over the poolable tokens of each row; zero for exact kinds."""
    if config.kind not in ("gumbel", "routing") or logits is None:
        return boundaries.new_zeros(())
    poolable = constraints.poolable
    lengths = poolable.sum(1)
    behind = lengths[:, None] + (~poolable).long().cumsum(1) - 1
    place = torch.where(poolable, poolable.long().cumsum(1) - 1, behind)  # poolable to the front
    boundaries, logits = (
        torch.zeros_like(values).scatter(1, place, values) for values in (boundaries, logits)
    )
    loss = rate_loss(config.rate_loss, boundaries, logits, config.rate, config.interval, lengths)
    return config.weight * loss


def neighbor_dissimilarity(features: Tensor) -> Tensor:
    """(B, L) float32 logits that grow with the angle between a token and the next; last is 0.

    Args:
        features: (B, L, D) tokens, or keys of an attention layer.
    """
    logits = dissimilarity_logits(features[:, :-1], features[:, 1:])
    return nn.functional.pad(logits, (0, 1))[:, : features.shape[1]]

"""Settings of boundaries that the language model and the towers share; known without torch."""

from __future__ import annotations

import math
from typing import Literal

from dtp_pooling.strict_config import require

PredictorKind = Literal["mlp", "cosine"]
EvaluationRule = Literal["threshold", "pattern"]
RateLoss = Literal["binomial", "ratio", "interval"]
BoundaryTarget = Literal["logits", "double_sigmoid"]


def require_ranges(
    hidden: int | None, temperature: float, weight: float, interval: tuple[float, float], seed: int
) -> None:
    """Raise ValueError unless the settings are in range."""
    require(hidden is None or hidden >= 1, f"hidden must be at least 1 or None, got {hidden}")
    require(
        0 < temperature < math.inf, f"temperature must be above 0 and finite, got {temperature}"
    )
    require(0 <= weight < math.inf, f"weight must be at least 0 and finite, got {weight}")
    low, high = interval
    require(0 <= low <= high <= 1, f"interval must rise within [0, 1], got {low}, {high}")
    require(-(2**63) <= seed < 2**63, f"seed must have 64 bits, got {seed}")

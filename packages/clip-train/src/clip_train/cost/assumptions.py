"""What the cost of a run is computed from besides its config."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clip_models.config import require

NATURAL_CAPTION = 17
"""Tokens of an average caption of the web, start and end included."""


@dataclass(frozen=True, kw_only=True)
class Accelerators:
    """The devices that a run is computed on."""

    number: int = 8
    """Number of devices."""
    peak_tflops: float = 312.0
    """Dense peak of one in 10^12 FLOP/s at the precision of the run; 312 is an A100 in bf16."""
    utilization: float = 0.4
    """Share of the peak that training reaches (model FLOPs utilization)."""
    memory_gb: float = 80.0
    """Memory of one in 10^9 bytes."""
    price_per_hour: float = 2.0
    """Price of one for an hour, in any currency."""

    def __post_init__(self) -> None:
        for name in ("number", "peak_tflops", "memory_gb"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name} of accelerators must be positive, got {value}")
        price, share = self.price_per_hour, self.utilization
        require(0 <= price < math.inf, f"price_per_hour must be 0 or more, got {price}")
        require(0 < share <= 1, f"utilization must be in (0, 1], got {share}")

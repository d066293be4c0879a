"""What a search is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Bounds and size of a search.

    The first bound that is given (in the order of the attributes; parameters without any) is the
    cost of the Pareto front.

    Attributes:
        max_params: Most parameters; a float of at most 1 is a fraction of the full model's.
        max_flops: The same for floating point operations.
        smaller_params: Smaller bounds on parameters, for which the search starts from a greedy
            subnet too: one search then serves several sizes (`SearchResult.best_within`).
        max_latency_ms: Most milliseconds for one call with the example inputs.
        population: Subnets per generation of NSGA-II.
        generations: Generations of NSGA-II; 0 evaluates the greedy path only.
        greedy: Subnets of the greedy path that are evaluated.
        seed: Seed of the search; the same seed and scores give the same result.
    """

    max_params: float | None = None
    max_flops: float | None = None
    max_latency_ms: float | None = None
    population: int = 24
    generations: int = 10
    greedy: int = 12
    seed: int = 0
    smaller_params: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("population", 1), ("generations", 0), ("greedy", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in ("max_params", "max_flops", "max_latency_ms"):
            bound = getattr(self, name)
            if bound is not None and not 0 < bound < math.inf:
                raise ValueError(f"{name} must be a number above 0, got {bound}")
        for bound in self.smaller_params:
            if not 0 < bound < math.inf:
                raise ValueError(f"smaller_params must be numbers above 0, got {bound}")

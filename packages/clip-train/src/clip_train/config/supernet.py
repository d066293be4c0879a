"""What `clip-train supernet` adds to a config."""

from __future__ import annotations

from dataclasses import dataclass

from clip_models.config import require


@dataclass(frozen=True, kw_only=True)
class SupernetSettings:
    """How a supernet is trained, and which subnets are written when it is.

    Attributes:
        num_random: Random subnets of a step, besides the largest and the smallest.
        distill: Weight in [0, 1] of the largest's outputs in the loss of the other subnets.
        embedding: Weight of the distance to the largest's embeddings.
        keep: Parameters that each written subnet may have, as fractions of the largest's.
        population: Subnets that are tried for each fraction, by their loss on training batches.
        generations: Generations of NSGA-II that follow; 0 tries subnets along the order of
            importance alone.
    """

    num_random: int = 2
    distill: float = 0.5
    embedding: float = 1.0
    keep: tuple[float, ...] = (0.7,)
    population: int = 8
    generations: int = 0

    def __post_init__(self) -> None:
        rules = {
            "num_random must be at least 0": self.num_random >= 0,
            "distill must be in [0, 1]": 0 <= self.distill <= 1,
            "embedding must be at least 0": self.embedding >= 0,
            "keep must be fractions in (0, 1]": all(0 < share <= 1 for share in self.keep),
            "population must be at least 1": self.population >= 1,
            "generations must be at least 0": self.generations >= 0,
        }
        for rule, holds in rules.items():
            require(holds, f"{rule}, got {getattr(self, rule.split()[0])}")

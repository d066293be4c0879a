"""Which samples make which batch: a pure function of (seed, epoch, step)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from clip_models import ConfigError
from numpy.typing import NDArray

from clip_train.randomness import keyed_bits, keyed_permutation


class PlannedBatch(NamedTuple):
    """The samples of one step."""

    epoch: int
    positions: NDArray[np.int64]  # (B,) places in the epoch's order, the key of all randomness
    indices: NDArray[np.int64]  # (B,) samples of the source


@dataclass(frozen=True)
class SamplePlan:
    """Every epoch is a new permutation of the source, cut into whole batches.

    The `num_samples % batch_size` samples left over at an epoch's end are not seen in that epoch;
    they are other ones each time.
    """

    num_samples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_samples < self.batch_size:
            raise ConfigError(
                f"the training set has {self.num_samples} samples, fewer than "
                f"train.batch_size = {self.batch_size}; choose a smaller batch"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.num_samples // self.batch_size

    def batch(self, step: int) -> PlannedBatch:
        """The samples of step `step`, counted from 0 over the whole run."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        start = step_of_epoch * self.batch_size
        positions = np.arange(start, start + self.batch_size)
        return PlannedBatch(epoch, positions, _order(self, epoch)[positions])

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """The sample to take when the one at `position` cannot be read."""
        bits = keyed_bits(self.seed, epoch, np.array([position]), f"replacement/{attempt}")
        return int(bits[0, 0] % np.uint64(self.num_samples))


@functools.lru_cache(maxsize=2)
def _order(plan: SamplePlan, epoch: int) -> NDArray[np.int64]:
    return keyed_permutation(plan.seed, epoch, plan.num_samples, "order")

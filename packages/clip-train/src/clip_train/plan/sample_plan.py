"""Which samples make which batch: a pure function of (seed, epoch, step)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clip_train.plan.batch_schedule import BatchSchedule
from clip_train.plan.sample_order import SampleOrder


class PlannedBatch(NamedTuple):
    """The samples of one step."""

    epoch: int
    positions: NDArray[np.int64]  # (B,) places in the epoch's order, the key of all randomness
    indices: NDArray[np.int64]  # (B,) samples of the source
    image_size: int | None  # side in pixels; None means the model's own


@dataclass(frozen=True)
class SamplePlan:
    """An order of samples for every epoch, cut into batches.

    Attributes:
        order: Which sample stands at which position.
        schedule: Which positions make a batch, and at which image size.
    """

    order: SampleOrder
    schedule: BatchSchedule

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the first epoch."""
        return self.schedule.steps_in(0)

    def steps_in_epochs(self, epochs: float) -> int:
        """Steps of a number of passes, the last of which may be a part, rounded down."""
        whole = math.floor(epochs)
        steps = sum(self.schedule.steps_in(epoch) for epoch in range(whole))
        return steps + math.floor((epochs - whole) * self.schedule.steps_in(whole))

    def batch(self, step: int) -> PlannedBatch:
        """The samples of step `step`, counted from 0 over the whole run."""
        epoch, start, count, image_size = self.schedule.batch(step)
        positions = np.arange(start, start + count)
        indices = self.order.indices(epoch, positions % self.order.num_samples)
        return PlannedBatch(epoch, positions, indices, image_size)

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """The sample to take when the one at `position` and `attempt` others cannot be read."""
        return self.order.replacement(epoch, position % self.order.num_samples, attempt)

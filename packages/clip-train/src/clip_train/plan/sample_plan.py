"""Which samples make which batch: a pure function of (seed, epoch, step)."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clip_train.plan.batch_schedule import BatchSchedule
from clip_train.plan.sample_order import SampleOrder
from clip_train.plan.token_batches import UNIT, TokenBatches, measure_imbalance


class PlannedBatch(NamedTuple):
    """The samples of one step."""

    epoch: int
    positions: NDArray[np.int64]  # (B,) places in the epoch's order, the key of all randomness
    indices: NDArray[np.int64]  # (B,) samples of the source
    image_size: int | None  # side in pixels; None means the model's own
    max_tokens: int | None = None  # patches of an image of its own shape, at most
    costs: NDArray[np.int64] | None = None  # (B,) by which ranks share the batch; None: all equal


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
        epoch, start, count, image_size, max_tokens = self.schedule.batch(step)
        positions = np.arange(start, start + count)
        indices = self.order.indices(epoch, positions % self.order.num_samples)
        costs = None
        if isinstance(self.schedule, TokenBatches) and max_tokens is not None:
            costs = self.schedule.cost_of(indices, max_tokens)
        return PlannedBatch(epoch, positions, indices, image_size, max_tokens, costs)

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """The sample to take when the one at `position` and `attempt` others cannot be read."""
        return self.order.replacement(epoch, position % self.order.num_samples, attempt)


LOOKED_AT = 200  # steps by which a plan is described


def describe_tokens(plan: SamplePlan, world_size: int) -> str:
    """What the first steps of a token budget hold, and how evenly processes share them."""
    assert isinstance(plan.schedule, TokenBatches)
    steps = range(min(LOOKED_AT, plan.steps_per_epoch))
    batches = [batch for batch in map(plan.batch, steps) if batch.costs is not None]
    costs = [batch.costs for batch in batches if batch.costs is not None]
    counts = [len(cost) for cost in costs]
    filled = [float(cost.sum()) / UNIT for cost in costs]
    shares = Counter(batch.max_tokens or 0 for batch in batches)
    lengths = ", ".join(f"{length}: {shares[length]}" for length in sorted(shares))
    text = (
        f"{min(filled):,.0f} to {max(filled):,.0f} of {plan.schedule.budget:,} in "
        f"{min(counts):,} to {max(counts):,} samples; steps by most patches of an image {lengths}"
    )
    if world_size == 1:
        return text
    worst = max(measure_imbalance(cost, world_size) for cost in costs)
    return f"{text}; the busiest process has up to {worst:.3f} of the mean"

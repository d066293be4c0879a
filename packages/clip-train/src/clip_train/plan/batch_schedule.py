"""How an epoch is cut into batches, of one size or of many: pure functions of (seed, epoch, step).

A batch of images of side `h` holds as many as keep its pixels constant, so that a step costs about
the same memory and time at every resolution (variable batch sampler: Mehta et al. 2022, CVNets).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from clip_models import ConfigError

from clip_train.config.data import VariableSizesConfig
from clip_train.plan.epoch_cuts import CutEpochs, EpochCut, ScheduledBatch
from clip_train.randomness import keyed_uniform


@dataclass(frozen=True)
class ConstantBatches:
    """Batches of one size.

    The `num_samples % batch_size` samples left over at an epoch's end are not seen in that epoch;
    which samples those are changes from epoch to epoch.
    """

    num_samples: int
    batch_size: int

    def __post_init__(self) -> None:
        _check_batch(self.num_samples, self.batch_size, "train.batch_size =")

    def steps_in(self, epoch: int) -> int:
        """Steps of an epoch; all have the same number."""
        return self.num_samples // self.batch_size

    def batch(self, step: int) -> ScheduledBatch:
        """Step `step`, counted from 0 over the whole run."""
        epoch, step_of_epoch = divmod(step, self.steps_in(0))
        return ScheduledBatch(epoch, step_of_epoch * self.batch_size, self.batch_size, None)


class SizedBatch(NamedTuple):
    """An image side in pixels and how many images of it make a batch."""

    image_size: int
    batch_size: int


@dataclass(frozen=True)
class BatchSizes:
    """The table of a variable batch sampler.

    `num_sizes` sides evenly from `min_size` to `max_size`, and `base_size`, each rounded to a
    multiple of `divisor`. A batch is `multiple_of` times the truncated number of images that have
    the pixels of `batch_size / multiple_of` images of `base_size`: the original computes its table
    for one process, which is `multiple_of` = number of processes here.
    """

    base_size: int
    batch_size: int
    min_size: int
    max_size: int
    num_sizes: int
    divisor: int
    multiple_of: int = 1

    def table(self) -> list[SizedBatch]:
        """Sizes in rising order with their batches."""
        sides = {*np.linspace(self.min_size, self.max_size, self.num_sizes), self.base_size}
        return [
            SizedBatch(side, self._batch(side))
            for side in sorted({round_to_multiple(float(side), self.divisor) for side in sides})
        ]

    def _batch(self, side: int) -> int:
        each = self.batch_size / self.multiple_of
        images = int(round(self.base_size**2 * each / side**2, 2))
        return self.multiple_of * max(1, images)


class VariableBatches(CutEpochs):
    """Every step draws a size from a table; an epoch sees every sample once.

    `growth` lists, by epoch, larger sizes from that epoch on. Sizes are drawn from (seed, epoch,
    step of the epoch). It is the case of a token budget in which all samples cost the same, and a
    row of the table says how many of them make a step.

    Deviation from the original: its processes draw from the state of Python's global generator,
    which anything else may disturb, and do not know an epoch's length in advance.
    """

    def __init__(
        self,
        num_samples: int,
        sizes: BatchSizes,
        seed: int,
        growth: tuple[tuple[int, BatchSizes], ...] = (),
    ) -> None:
        super().__init__()
        self.num_samples, self.sizes, self.seed, self.growth = num_samples, sizes, seed, growth
        self._cuts: dict[int, EpochCut] = {}
        tables = [self.sizes, *(sizes for _, sizes in self.growth)]
        _check_batch(
            self.num_samples,
            max(row.batch_size for sizes in tables for row in sizes.table()),
            "a batch of",
        )

    def sizes_in(self, epoch: int) -> BatchSizes:
        """The table that holds in `epoch`."""
        begun = [sizes for first, sizes in self.growth if first <= epoch]
        return begun[-1] if begun else self.sizes

    def describe(self, epoch: int, row: int) -> tuple[int | None, int | None]:
        """The side of the images of a row, and no number of tokens."""
        return self.sizes_in(epoch).table()[row].image_size, None

    def cut(self, epoch: int) -> EpochCut:
        """The steps of an epoch."""
        if epoch not in self._cuts:
            table = self.sizes_in(epoch).table()
            batches = np.array([row.batch_size for row in table])
            longest = -(-self.num_samples // int(batches.min()))
            uniform = keyed_uniform(self.seed, epoch, np.arange(longest), "image size")[:, 0]
            rows = (uniform * len(table)).astype(np.int64)
            ends = np.cumsum(batches[rows])
            steps = int(np.searchsorted(ends, self.num_samples)) + 1
            starts = np.concatenate([[0], ends[: steps - 1]])
            self._cuts[epoch] = EpochCut(rows[:steps], starts, batches[rows[:steps]])
        return self._cuts[epoch]


BatchSchedule = ConstantBatches | CutEpochs
"""Cuts every epoch of `num_samples` positions into batches."""


def make_schedule(
    num_samples: int, batch_size: int, image_size: int, sizes: VariableSizesConfig, seed: int
) -> BatchSchedule:
    """The schedule of a config.

    Args:
        num_samples: Samples of an epoch.
        batch_size: Samples of a step at `image_size`.
        image_size: The model's own side in pixels.
        sizes: Other sides; none with `num_sizes` 0.
        seed: Of the run.

    Raises:
        ConfigError: A batch is larger than the data.
    """
    if not sizes.num_sizes:
        return ConstantBatches(num_samples, batch_size)
    first, *grown = _all_sizes(batch_size, image_size, sizes)
    growth = tuple(zip(sizes.growth_epochs, grown, strict=True))
    return VariableBatches(num_samples, first, seed, growth)


def size_table(batch_size: int, image_size: int, sizes: VariableSizesConfig) -> list[SizedBatch]:
    """The sizes of a config's first epoch with their batches; arguments as in `make_schedule`."""
    if not sizes.num_sizes:
        return [SizedBatch(image_size, batch_size)]
    return _all_sizes(batch_size, image_size, sizes)[0].table()


def _all_sizes(batch_size: int, image_size: int, sizes: VariableSizesConfig) -> list[BatchSizes]:
    """Those of the first epoch, and of each growth."""
    tables = [
        BatchSizes(
            *(image_size, batch_size, sizes.min_size, sizes.max_size),
            *(sizes.num_sizes, sizes.divisor, sizes.batch_multiple),
        )
    ]
    for _ in sizes.growth_epochs:
        smallest, largest = tables[-1].min_size, tables[-1].max_size
        smallest += int(smallest * sizes.min_growth)
        largest += int(largest * sizes.max_growth)
        tables.append(replace(tables[-1], min_size=smallest, max_size=largest))
    return tables


def round_to_multiple(value: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `value`, halves up, never below 90 % of it."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _check_batch(num_samples: int, batch_size: int, what: str) -> None:
    if num_samples < batch_size:
        raise ConfigError(
            f"the training set has {num_samples} samples, fewer than {what} {batch_size}; "
            "choose a smaller train.batch_size"
        )

"""Epochs that are cut into steps of changing size, each step of one row of a table.

A row is what a step draws: an image size, or a number of tokens. Which row a step draws is a
function of (seed, epoch, step of the epoch); the last step of an epoch is filled up with the
epoch's first samples. So all processes agree without communication, and any step can be computed
again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ScheduledBatch(NamedTuple):
    """The part of an epoch that one step takes."""

    epoch: int
    start: int  # position of its first sample in the epoch's order; those beyond the end are
    # the epoch's first samples again
    num_samples: int
    image_size: int | None  # side in pixels; None means the model's own
    max_tokens: int | None = None  # patches of an image of its own shape, at most; None for squares


class EpochCut(NamedTuple):
    """The steps of an epoch."""

    rows: NDArray[np.int64]  # (steps,) row of the table
    starts: NDArray[np.int64]  # (steps,) first position
    counts: NDArray[np.int64]  # (steps,) number of positions


class CutEpochs(ABC):
    """A schedule whose epochs have different numbers of steps."""

    num_samples: int

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}

    @abstractmethod
    def cut(self, epoch: int) -> EpochCut:
        """The steps of an epoch."""

    @abstractmethod
    def describe(self, epoch: int, row: int) -> tuple[int | None, int | None]:
        """Image size and most tokens of a row."""

    def steps_in(self, epoch: int) -> int:
        """Steps of one epoch; the number differs between epochs."""
        if epoch not in self._steps:
            self._steps[epoch] = len(self.cut(epoch).starts)
        return self._steps[epoch]

    def batch(self, step: int) -> ScheduledBatch:
        """Step `step`, counted from 0 over the whole run."""
        epoch, first = 0, 0
        while step >= first + self.steps_in(epoch):
            first += self.steps_in(epoch)
            epoch += 1
        cut, number = self.cut(epoch), step - first
        described = self.describe(epoch, int(cut.rows[number]))
        return ScheduledBatch(epoch, int(cut.starts[number]), int(cut.counts[number]), *described)

    def wrapped_in(self, epoch: int) -> int:
        """Samples of `epoch` that are seen a second time, to fill its last batch."""
        cut = self.cut(epoch)
        return int(cut.starts[-1] + cut.counts[-1]) - self.num_samples

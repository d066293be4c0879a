"""Batches of a number of tokens: patches of images of their own shape, and tokens of captions.

N samples, R rows: numbers of patches that an image has at most. Every step draws a row and takes as
many samples, in the order of the epoch, as fit into the budget (Dehghani et al. 2023, "NaViT"). The
plan reads a table of all samples' sizes, so that it is a function of (seed, epoch, step).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from clip_models import ConfigError, Preprocess
from clip_models.config import PreprocessConfig
from numpy.typing import NDArray

from clip_train.plan.epoch_cuts import CutEpochs, EpochCut
from clip_train.plan.sample_order import SampleOrder
from clip_train.randomness import keyed_uniform

UNIT = 1000
"""Costs are whole numbers of thousandths of a token, so that their sums are exact."""
EPOCHS_KEPT = 2


class SampleSizes(NamedTuple):
    """What the samples of a source cost, as far as it does not depend on the step."""

    pixels: NDArray[np.int64]  # (N, 2) width and height upright; 0 where they cannot be read
    caption_tokens: NDArray[np.float64]  # (N,) mean over the captions of a sample


def count_patches(pixels: NDArray[np.int64], patch_size: int, max_tokens: int) -> NDArray[np.int64]:
    """(N,) patches of images (N, 2) in their own shape; `max_tokens` where a size is unknown."""
    config = PreprocessConfig(resize_mode="native", patch_size=patch_size, max_tokens=max_tokens)
    preprocess = Preprocess(config)
    distinct, place = np.unique(pixels, axis=0, return_inverse=True)
    counts = np.full(len(distinct), max_tokens, dtype=np.int64)
    for number, (width, height) in enumerate(distinct.tolist()):
        if width and height:
            rows, columns = preprocess.find_native_size((width, height))
            counts[number] = (rows // patch_size) * (columns // patch_size)
    return counts[place.reshape(-1)]


class TokenBatches(CutEpochs):
    """Every step draws the most patches of an image; an epoch sees every sample once.

    Args:
        order: Of the samples in each epoch.
        costs: (R, N) cost of each sample under each row, in thousandths of a token.
        max_tokens: Most patches of an image, for each row.
        shares: Share of the steps of each row; empty for equal ones.
        budget: Tokens of a step of all processes, which no step exceeds.
        seed: Of the run.
    """

    def __init__(
        self,
        order: SampleOrder,
        costs: NDArray[np.int64],
        max_tokens: Sequence[int],
        shares: Sequence[float],
        budget: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.order, self.costs = order, costs
        self.max_tokens, self.shares = tuple(max_tokens), tuple(shares)
        self.budget, self.seed = budget, seed
        self.num_samples = order.num_samples
        self._cuts: OrderedDict[int, EpochCut] = OrderedDict()
        largest = int(costs.max()) / UNIT
        if budget < largest:
            raise ConfigError(
                f"data.token_budget must hold a sample, of up to {largest:g} tokens with its "
                f"caption, got {budget}; raise it, or shorten data.sequence_lengths"
            )
        if int(costs.sum(1).min()) < budget * UNIT:
            raise ConfigError(
                f"the training set has {int(costs.sum(1).min()) / UNIT:g} tokens, fewer than "
                f"data.token_budget = {budget}; choose a smaller one"
            )

    @property
    def least_samples(self) -> int:
        """Samples that every step has at least."""
        return self.budget * UNIT // int(self.costs.max())

    def describe(self, epoch: int, row: int) -> tuple[int | None, int | None]:
        """No image size, and the most patches of an image."""
        return None, self.max_tokens[row]

    def cost_of(self, indices: NDArray[np.int64], max_tokens: int) -> NDArray[np.int64]:
        """(B,) cost of samples in a step of at most so many patches an image."""
        return self.costs[self.max_tokens.index(max_tokens), indices]

    def cut(self, epoch: int) -> EpochCut:
        """The steps of an epoch, each as long as the budget allows."""
        if epoch not in self._cuts:
            self._cuts[epoch] = self._cut(epoch)
            while len(self._cuts) > EPOCHS_KEPT:
                self._cuts.popitem(last=False)
        return self._cuts[epoch]

    def _cut(self, epoch: int) -> EpochCut:
        indices = self.order.indices(epoch, np.arange(self.num_samples))
        sums = np.zeros((len(self.costs), self.num_samples + 1), dtype=np.int64)
        np.cumsum(self.costs[:, indices], axis=1, out=sums[:, 1:])
        longest = int(-(-sums[:, -1].max() // (self.budget * UNIT - int(self.costs.max()) + 1)))
        drawn = self._draw(epoch, longest + 1)
        starts, counts, start = list[int](), list[int](), 0
        while start < self.num_samples:
            row = sums[drawn[len(starts)]]
            starts.append(start)
            counts.append(_fill(row, start, self.budget * UNIT) - start)
            start += counts[-1]
        return EpochCut(drawn[: len(starts)], np.array(starts), np.array(counts))

    def _draw(self, epoch: int, steps: int) -> NDArray[np.int64]:
        """(steps,) rows."""
        uniform = keyed_uniform(self.seed, epoch, np.arange(steps), "sequence length")[:, 0]
        if not self.shares:
            return (uniform * len(self.max_tokens)).astype(np.int64)
        ends = np.cumsum(self.shares) / sum(self.shares)
        return np.minimum(np.searchsorted(ends, uniform, side="right"), len(ends) - 1)


def _fill(sums: NDArray[np.int64], start: int, budget: int) -> int:
    """Where a step from `start` ends; beyond the epoch's end with the epoch's first samples."""
    last = len(sums) - 1
    left = int(sums[start]) + budget
    stop = int(np.searchsorted(sums, left, side="right")) - 1
    if stop < last:
        return stop
    rest = left - int(sums[last])
    return last + min(last, int(np.searchsorted(sums, rest, side="right")) - 1)


def share_work(costs: NDArray[np.int64], parts: int) -> list[slice]:
    """Contiguous parts of a batch of B samples with costs as equal as that allows, none empty."""
    sums = np.concatenate([[0], np.cumsum(costs)])
    wanted = sums[-1] * np.arange(1, parts) / parts
    after = np.searchsorted(sums, wanted)
    nearer = wanted - sums[after - 1] < sums[after] - wanted
    ends = [0, *(after - nearer).tolist(), len(costs)]
    for number in range(1, parts):  # no part is empty
        ends[number] = min(max(ends[number], ends[number - 1] + 1), len(costs) - parts + number)
    return [slice(first, stop) for first, stop in itertools.pairwise(ends)]


def measure_imbalance(costs: NDArray[np.int64], parts: int) -> float:
    """Cost of the largest part over the mean of all parts."""
    sums = [int(costs[part].sum()) for part in share_work(costs, parts)]
    return max(sums) * parts / sum(sums)

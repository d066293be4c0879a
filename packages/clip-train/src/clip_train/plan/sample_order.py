"""The order of an epoch: any place in it is computed from (seed, epoch, position), none is stored.

P positions asked for, N samples, S shards.

Shards are permuted and laid end to end; the row is cut into a fixed number of virtual streams of
equal length, and the streams are dealt out in turn. Each stretch of `buffer` positions of that is
then permuted. So at any time samples come from about as many shards as there are streams, and from
adjacent samples of each, as with a streaming reader and its shuffle buffer; but the place of a
sample is known without reading up to it. Nothing depends on workers or ranks, there may be fewer
shards than either, and uneven shards leave no stream to end before the others. Memory is O(S).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from clip_models import ConfigError
from numpy.typing import NDArray

from clip_train.randomness import keyed_bits, keyed_permutation, permute

NEAR_REPLACEMENTS = 10  # from the same stretch of the same stream, whose shards are open
STREAM_REPLACEMENTS = 50  # then from that stream, in case a whole shard is lost


@dataclass(frozen=True)
class ShardedOrder:
    """Every epoch is a new order of all samples, each once.

    A data set that fits into the buffer, or has no shards, is permuted as a whole.

    Attributes:
        shard_sizes: Samples in each shard, in the order of the source's indices.
        seed: The run's seed.
        streams: Number of virtual streams.
        buffer: Positions that are permuted together.
        purpose: Distinguishes the orders of several sources.
    """

    shard_sizes: tuple[int, ...]
    seed: int
    streams: int = 32
    buffer: int = 65536
    purpose: str = "order"

    @functools.cached_property
    def num_samples(self) -> int:
        """All samples of all shards."""
        return sum(self.shard_sizes)

    @property
    def _is_one_block(self) -> bool:
        return len(self.shard_sizes) == 1 or self.num_samples <= self.buffer

    def indices(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples (P,) at positions (P,) of an epoch."""
        if self._is_one_block:
            return permute(self.seed, epoch, positions, self.num_samples, self.purpose)
        dealt = np.empty_like(positions)
        blocks = positions // self.buffer
        for block in np.unique(blocks).tolist():  # a batch touches one or two
            start = block * self.buffer
            length = min(self.buffer, self.num_samples - start)
            inside = blocks == block
            purpose = f"{self.purpose}/{block}"
            dealt[inside] = start + permute(
                self.seed, epoch, positions[inside] - start, length, purpose
            )
        return self._sample_at(epoch, self._row_place(dealt % self.streams, dealt // self.streams))

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Another sample of the same stream, and only if those fail too, of the whole set."""
        bits = keyed_bits(
            self.seed, epoch, np.array([position]), f"{self.purpose}/replacement/{attempt}"
        )[0, 0]
        if self._is_one_block or attempt >= STREAM_REPLACEMENTS:
            return int(bits % np.uint64(self.num_samples))
        block = position // self.buffer
        length = min(self.buffer, self.num_samples - block * self.buffer)
        place = np.array([position % self.buffer])
        own = permute(self.seed, epoch, place, length, f"{self.purpose}/{block}")
        stream = int(own[0] + block * self.buffer) % self.streams
        low, high = 0, int(self._stream_starts[stream + 1] - self._stream_starts[stream])
        if attempt < NEAR_REPLACEMENTS:
            low = block * self.buffer // self.streams
            high = min(high, -(-(block * self.buffer + length) // self.streams))
        offset = low + int(bits % np.uint64(max(1, high - low)))
        return int(self._sample_at(epoch, self._row_place(np.array([stream]), offset))[0])

    def _row_place(
        self, stream: NDArray[np.int64], offset: NDArray[np.int64] | int
    ) -> NDArray[np.int64]:
        return np.minimum(self._stream_starts[stream] + offset, self.num_samples - 1)

    @functools.cached_property
    def _stream_starts(self) -> NDArray[np.int64]:
        """Where each stream begins in the row of shards; the first N mod streams are one longer."""
        numbers = np.arange(self.streams + 1)
        return numbers * (self.num_samples // self.streams) + np.minimum(
            numbers, self.num_samples % self.streams
        )

    @functools.cached_property
    def _shard_starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.shard_sizes)])

    def _sample_at(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples at places of the row of permuted shards."""
        order, ends = _shard_row(self, epoch)
        rank = np.searchsorted(ends, places, side="right")
        shards = order[rank]
        before = ends[rank] - np.asarray(self.shard_sizes)[shards]
        return self._shard_starts[shards] + places - before


@functools.lru_cache(maxsize=8)
def _shard_row(order: ShardedOrder, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The permuted shards (S,), and where each ends in their row (S,)."""
    shards = keyed_permutation(order.seed, epoch, len(order.shard_sizes), f"{order.purpose}/shards")
    return shards, np.cumsum(np.asarray(order.shard_sizes)[shards])


MIX_BLOCK = 16384


@dataclass(frozen=True)
class MixedOrder:
    """Several sources in fixed shares, each with separate epochs.

    Every stretch of `MIX_BLOCK` positions of the run holds the same number of samples of each
    source, in permuted places. An epoch of the mixture has as many positions as all sources have
    samples; a source with a share above its size is seen more than once in it.

    Attributes:
        parts: The order of each source.
        weights: Share of each source; they need not sum to one.
        seed: The run's seed.
    """

    parts: tuple[ShardedOrder, ...]
    weights: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.parts):
            raise ConfigError(
                f"expected a weight for each of {len(self.parts)} sources, got {len(self.weights)}"
            )
        for number, count in enumerate(self._counts):
            if count == 0:
                raise ConfigError(
                    f"weight {self.weights[number]} of source {number + 1} is too small; "
                    f"expected a share of at least 1 in {MIX_BLOCK}"
                )

    @functools.cached_property
    def num_samples(self) -> int:
        """All samples of all sources."""
        return sum(part.num_samples for part in self.parts)

    @functools.cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Samples of each source in a block: shares rounded so that they fill it."""
        exact = np.asarray(self.weights) / sum(self.weights) * MIX_BLOCK
        counts = np.floor(exact).astype(np.int64)
        largest = np.argsort(counts - exact, kind="stable")[: MIX_BLOCK - int(counts.sum())]
        counts[largest] += 1
        return counts

    def indices(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples (P,), numbered through all sources."""
        found = np.empty_like(positions)
        numbers, turns = self._turns(epoch, positions)
        first = 0
        for number, part in enumerate(self.parts):
            mine = np.flatnonzero(numbers == number)
            epochs = turns[mine] // part.num_samples
            for source_epoch in np.unique(epochs).tolist():
                chosen = mine[epochs == source_epoch]
                places = turns[chosen] % part.num_samples
                found[chosen] = first + part.indices(source_epoch, places)
            first += part.num_samples
        return found

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Another sample of the same stream of the same source."""
        numbers, turns = self._turns(epoch, np.array([position]))
        number, turn = int(numbers[0]), int(turns[0])
        source_epoch, place = divmod(turn, self.parts[number].num_samples)
        first = sum(part.num_samples for part in self.parts[:number])
        return first + self.parts[number].replacement(source_epoch, place, attempt)

    def _turns(
        self, epoch: int, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source of each position (P,), and how many of that source came before (P,)."""
        numbers, turns = np.empty_like(positions), np.empty_like(positions)
        blocks, places = np.divmod(epoch * self.num_samples + positions, MIX_BLOCK)
        starts = np.concatenate([[0], np.cumsum(self._counts)])
        for block in np.unique(blocks).tolist():
            inside = blocks == block
            slots = permute(self.seed, block, places[inside], MIX_BLOCK, "mix")
            numbers[inside] = np.searchsorted(starts, slots, side="right") - 1
            turns[inside] = block * self._counts[numbers[inside]] + slots - starts[numbers[inside]]
        return numbers, turns


SampleOrder = ShardedOrder | MixedOrder
"""Which sample stands at which position of which epoch; positions are 0 … num_samples - 1.

`replacement` is the sample to take when the one at `position` and `attempt` others cannot be read.
"""

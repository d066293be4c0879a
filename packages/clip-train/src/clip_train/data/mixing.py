"""Several sources as one: indices run through them one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from clip_eval.data import Sample, Source

from clip_train.plan.sample_order import MixedOrder, SampleOrder, ShardedOrder


class MixedSource(Source):
    """The samples of several sources, without labels, which differ in meaning between sources."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = tuple(parts)
        self.name = " + ".join(part.name for part in parts)
        self.faults = tuple(fault for part in parts for fault in part.faults)
        self.warnings = tuple(text for part in parts for text in part.warnings)
        self.exif_orientation = any(part.exif_orientation for part in parts)
        self._first = list(accumulate((len(part) for part in parts), initial=0))

    def __len__(self) -> int:
        """Samples of all sources."""
        return self._first[-1]

    def read(self, index: int) -> Sample:
        """Sample `index`; its key begins with the name of its source.

        Raises:
            BadSample: It cannot be read.
        """
        number, index = self._find(index)
        sample = self.parts[number].read(index)
        key = f"{self.parts[number].name}/{sample.key}"
        return Sample(key, sample.image, sample.captions)

    def place(self, index: int) -> str:
        """The source and shard of a sample."""
        number, index = self._find(index)
        return f"{self.parts[number].name}: {self.parts[number].place(index)}"

    def _find(self, index: int) -> tuple[int, int]:
        if index < 0 or index >= len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect_right(self._first, index) - 1
        return number, index - self._first[number]


def make_order(
    source: Source, weights: Sequence[float], *, seed: int, streams: int, buffer: int
) -> SampleOrder:
    """The order of a source; a mixed one follows weights, or sizes if there are none."""
    if not isinstance(source, MixedSource):
        return _make_source_order(source, seed, streams, buffer, "order")
    parts = tuple(
        _make_source_order(part, seed, streams, buffer, f"order of {number}")
        for number, part in enumerate(source.parts)
    )
    shares = tuple(weights) or tuple(float(part.num_samples) for part in parts)
    return MixedOrder(parts, shares, seed)


def _make_source_order(
    source: Source, seed: int, streams: int, buffer: int, purpose: str
) -> ShardedOrder:
    """The order of one source; it opens no more samples at a time than the source can hold."""
    sizes = source.shard_sizes or (len(source),)
    if source.working_set is not None:
        buffer = min(buffer, source.working_set)
        streams = max(1, min(streams, source.working_set // max(sizes)))
    return ShardedOrder(sizes, seed, streams, buffer, purpose)

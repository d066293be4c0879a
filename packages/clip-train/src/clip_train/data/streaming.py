"""Shards read from begin to end, where indexing them is not possible.

Every worker of every rank draws shards at random, with replacement, and shuffles the samples of
those it has open. There are no epochs, any number of shards is enough for any number of workers,
and no worker waits for another. But which samples a step gets depends on the numbers of ranks and
workers, and on where a run was resumed: use `data.order = "exact"` wherever shards can be indexed.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Generator, Sequence

from clip_eval.data import (
    BadSample,
    DataError,
    Sample,
    Source,
    StreamedFiles,
    expand_shards,
    sample_from_files,
    stream_tar,
)

from clip_train.config.data import DataConfig

MAX_BUFFER = 2000  # encoded samples that a worker keeps to shuffle
MAX_BUFFER_BYTES = 2**30
MAX_FAULTS_IN_A_ROW = 100
ATTEMPTS = 2  # at a shard without samples


class ShardStream(Source):
    """A source without random access: shards, and the number of samples of an epoch."""

    def __init__(self, specs: Sequence[str], data: DataConfig) -> None:
        self.data = data
        self.shards = [
            shard
            for spec in specs
            for shard in expand_shards(
                spec.removeprefix("wds:"), split=data.split or None, default_split="train"
            )
        ]
        self.name = f"stream of {len(self.shards)} shards"

    def __len__(self) -> int:
        """Samples that count as an epoch."""
        assert self.data.epoch_samples is not None
        return self.data.epoch_samples

    def read(self, index: int) -> Sample:
        """Always an error.

        Raises:
            DataError: Samples of a stream have no numbers.
        """
        raise DataError(
            f"{self.name}: samples of a stream cannot be read by number; use a tokenizer that is "
            "not learned from the data, or data.order = 'exact'"
        )


class SampleStream:
    """Shuffled samples of shards drawn at random; damage is raised when it is reached."""

    def __init__(self, stream: ShardStream, key: str) -> None:
        self._data, self._shards = stream.data, stream.shards
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")
        self._items = self._read_shards(random.Random(seed))
        self._rng = random.Random(seed)
        self._buffer: list[StreamedFiles] = []
        self._bytes = 0  # in the buffer

    def __next__(self) -> Sample:
        """A sample from a random place of the buffer, which is filled two samples at a time.

        Raises:
            BadSample: A fault was reached, or the sample cannot be used.
            DataError: The machine has run out of something.
        """
        size = min(self._data.shuffle_buffer, MAX_BUFFER)
        is_full = len(self._buffer) >= size or self._bytes >= MAX_BUFFER_BYTES
        for _ in range(1 if is_full and self._buffer else 2):
            item = next(self._items)
            if isinstance(item, BadSample):
                raise item
            self._buffer.append(item)
            self._bytes += item.size
        place = self._rng.randrange(len(self._buffer))
        self._buffer[place], self._buffer[-1] = self._buffer[-1], self._buffer[place]
        files = self._buffer.pop()
        self._bytes -= files.size
        return sample_from_files(
            files.key,
            files.parts,
            image_key=self._data.image_key,
            caption_key=self._data.caption_key,
        )

    def _read_shards(self, rng: random.Random) -> Generator[StreamedFiles | BadSample, None, None]:
        """Samples and faults of shards drawn with replacement, without an end.

        A shard that gives no sample is tried once more and then left out.

        Raises:
            DataError: No shard is left.
        """
        shards = list(self._shards)
        failures = Counter[str]()
        detail = ""
        while shards:
            shard = rng.choice(shards)
            failures[shard] += 1
            for item in stream_tar(shard):
                if isinstance(item, BadSample):
                    detail = str(item)
                else:
                    failures[shard] = 0
                yield item
            if failures[shard] >= ATTEMPTS:
                shards.remove(shard)
        raise DataError(
            f"each of {len(self._shards)} shards gave no sample {ATTEMPTS} times in a row, such as "
            f"{detail}"
        )

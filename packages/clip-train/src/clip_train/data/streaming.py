"""Shards read from end to end by webdataset, where indexing them is not possible.

Every worker of every rank draws shards at random, with replacement, and shuffles the samples of
those it has open. There are no epochs, any number of shards is enough for any number of workers,
and no worker waits for another. But which samples a step gets depends on the numbers of ranks and
workers, and on where a run was resumed: use `data.order = "exact"` wherever shards can be indexed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import webdataset
from clip_eval.data import (
    BadSample,
    DataError,
    Sample,
    Source,
    expand_shards,
    open_location,
    sample_from_files,
)
from webdataset import tariterators

from clip_train.config.data import DataConfig

MAX_BUFFER = 2000  # encoded samples that a worker keeps to shuffle
MAX_FAULTS_IN_A_ROW = 100


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
        self._data = stream.data
        self._damage: list[BadSample] = []
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")
        shards = webdataset.ResampledShards(
            stream.shards, seed=seed, worker_seed=lambda: seed, deterministic=True
        )
        self._tars = self._open_shards(shards)
        files = tariterators.tar_file_expander(self._tars, handler=self._record_damage)
        tars = tariterators.group_by_keys(files, handler=self._record_damage)
        buffer = self._data.shuffle_buffer
        self._samples = self._shuffle(iter(tars), min(buffer, MAX_BUFFER), random.Random(seed))

    def __next__(self) -> Sample:
        if self._damage:
            raise self._damage.pop()
        files = next(self._samples, None)
        if files is None:
            self._tars.close()
            raise DataError(f"{len(self._damage)} shards in a row: {self._damage[-1].detail}")
        url, key = str(files["__url__"]), str(files["__key__"])
        parts = {name: data for name, data in files.items() if not name.startswith("__")}
        return sample_from_files(
            f"{url.rpartition('/')[2]}/{key}",
            parts,
            image_key=self._data.image_key,
            caption_key=self._data.caption_key,
        )

    def _open_shards(
        self, shards: Iterable[dict[str, str]]
    ) -> Generator[dict[str, Any], None, None]:
        """Each shard as a stream, closed when the next one is asked for."""
        for shard in shards:
            try:
                stream = open_location(shard["url"])
            except Exception as error:  # the clients of object stores raise nearly everything
                if self._record_damage(error):
                    continue
                return
            with stream:
                yield {"url": shard["url"], "stream": stream}

    def _shuffle(
        self, samples: Iterator[dict[str, Any]], size: int, rng: random.Random
    ) -> Iterator[dict[str, Any]]:
        """Samples from random places of a buffer, which is filled two samples at a time."""
        buffer: list[dict[str, Any]] = []
        while True:
            buffer.extend(islice(samples, 2 if len(buffer) < size else 1))
            if not buffer:
                return
            place = rng.randrange(len(buffer))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            yield buffer.pop()

    def _record_damage(self, error: Exception) -> bool:
        """Record a tar that cannot be read, or not further; whether to go on with the next."""
        self._damage.append(BadSample("damaged-tar", " ".join(str(error).split())[:300]))
        return len(self._damage) < MAX_FAULTS_IN_A_ROW

"""Where the samples of a shard begin: a file of numbers beside the shard, and lists of such shards.

The file is `NAME.tar.idx` beside `NAME.tar`: unsigned 64-bit little-endian offsets, one for
the first header of each sample, and one more for the end of the last sample. This is the format of
megatron-energon, so shards that it has indexed need no second pass here, and the reverse:

- A sample's stretch is the difference of two neighboring offsets, eight bytes a sample. Lengths
  and flags would add nothing, because the headers within the stretch hold the rest.
- Damage cannot be recorded in it. Therefore the end is checked when a shard is opened: an undamaged
  tar has its end-of-archive mark exactly where the index ends. Otherwise the shard is scanned
  again, so that damage is reported each time.

An index file is mapped, never loaded: memory is O(shards). It is built when a shard is first
opened, and again if the shard is newer. If the directory is read-only, it goes below
`~/.cache/clip-eval/index` (or `XDG_CACHE_HOME`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import mmap
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from clip_eval.data.faults import BadSample, DataError, Fault
from clip_eval.data.lru_cache import LRUCache
from clip_eval.data.samples import Source, locate
from clip_eval.data.shards.cache import ShardFile
from clip_eval.data.shards.open_files import OpenFiles
from clip_eval.data.storage import atomic_path, cache_directory
from clip_eval.data.urls import read_url

OPEN_INDICES = 256
SUFFIX = ".idx"
FAULTS = ".faults.json"
INDEX_FOLDER = "index"


class Scan(NamedTuple):
    """Samples and damage of one shard."""

    offsets: NDArray[np.uint64]  # (n + 1,) begin of each sample, end of the last
    faults: tuple[Fault, ...] = ()


def make_scan(path: Path, offsets: Sequence[int], what: str, damage: str = "") -> Scan:
    """The scan of a shard, with a fault if the shard is empty or damaged.

    Args:
        path: The shard.
        offsets: Begin of each sample, and end of the last.
        what: Name of the format, for the reason of a fault.
        damage: What is wrong after the last offset, if anything.
    """
    faults: tuple[Fault, ...] = ()
    if path.stat().st_size == 0:
        faults = (Fault(where=path.name, reason="empty", detail="empty file"),)
    elif damage:
        detail = f"{damage}; {len(offsets) - 1} samples before it are kept"
        faults = (Fault(where=path.name, reason=f"damaged-{what}", detail=detail),)
    return Scan(np.array(offsets, np.uint64), faults)


@contextlib.contextmanager
def map_file(path: Path) -> Iterator[bytes | mmap.mmap]:
    """The content of a file, mapped; an empty file, which cannot be, as no bytes."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield view


class Place(NamedTuple):
    """Position of one sample."""

    shard: int
    number: int  # of the sample within the shard
    start: int  # bytes
    length: int


class IndexedShards:
    """Stretches of shards by number, through an index file for each.

    Args:
        shards: The files, in order.
        scan: Finds the samples of a file on disk.
        is_whole: Whether `offsets[-1]` is the undamaged end of a file: given the path, that
            offset, and the size of the file.

    Raises:
        DataError: A shard cannot be read.
    """

    def __init__(
        self,
        shards: Sequence[ShardFile],
        scan: Callable[[Path], Scan],
        is_whole: Callable[[Path, int, int], bool],
    ) -> None:
        self.shards = tuple(shards)
        self._scan, self._is_whole = scan, is_whole
        self._files = OpenFiles(self._local)
        self._indices = LRUCache(self._map_index, OPEN_INDICES)
        self._index_files: list[Path] = [Path()] * len(self.shards)
        faults: dict[int, tuple[Fault, ...]] = {}
        sizes = [0] * len(self.shards)
        for number in tqdm(
            _indexing_order(len(self.shards)), "index", unit="shard", disable=None, delay=2
        ):
            sizes[number], faults[number] = self._open_index(number)
        self.sizes = tuple(sizes)
        self.faults = tuple(fault for number in sorted(faults) for fault in faults[number])
        self._first = list(accumulate(sizes, initial=0))

    def __len__(self) -> int:
        """Number of samples."""
        return self._first[-1]

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the functions that only building the index needs."""
        return {**self.__dict__, "_scan": None, "_is_whole": None}

    def place(self, index: int) -> Place:
        """Where sample `index` lies.

        Raises:
            IndexError: There is no such sample.
            OSError: The index file is gone.
        """
        shard, number = self.shard_of(index)
        offsets = self._indices.get(shard)
        start = int(offsets[number])
        return Place(shard, number, start, int(offsets[number + 1]) - start)

    def shard_of(self, index: int) -> tuple[int, int]:
        """The shard of a sample, and the sample's number in it; touches no file."""
        return locate(self._first, index)

    def name(self, index: int) -> str:
        """A sample's shard and number, for people."""
        shard, number = self.shard_of(index)
        return f"{self.shards[shard].name}, sample {number}"

    def read(self, place: Place) -> bytes:
        """The stretch of a sample.

        Raises:
            OSError: The shard cannot be read.
        """
        return self._files.read_at(place.shard, place.start, place.length)

    def _local(self, number: int) -> Path:
        return self.shards[number].local()

    def _map_index(self, shard: int) -> NDArray[np.uint64]:
        return np.memmap(self._index_files[shard], dtype="<u8", mode="r")

    def _open_index(self, number: int) -> tuple[int, tuple[Fault, ...]]:
        """Number of samples of a shard and its damage; afterwards its index file exists."""
        shard = self.shards[number]
        try:
            for path in _index_paths(shard):
                count = self._count_samples(shard, path)
                if count is not None:
                    self._index_files[number] = path
                    return count, _stored_faults(path)
            scanned = self._scan(shard.local())
            faults = tuple(replace(fault, where=shard.name) for fault in scanned.faults)
            scanned = Scan(scanned.offsets, faults)
            self._index_files[number] = _write_index(shard, scanned)
        except OSError as error:
            raise DataError(f"{shard.name}: cannot be read ({error.strerror or error})") from error
        return len(scanned.offsets) - 1, scanned.faults

    def _count_samples(self, shard: ShardFile, path: Path) -> int | None:
        """Number of samples if the index belongs to the shard as it is, and that is whole."""
        if not path.is_file():
            return None
        bytes_of_index = path.stat()
        count = bytes_of_index.st_size // 8 - 1
        if bytes_of_index.st_size % 8 or count < 0:
            return None
        if shard.is_cached:
            return count  # its identity is in the name of the index
        local = shard.local()
        found = local.stat()
        if found.st_mtime_ns >= bytes_of_index.st_mtime_ns:  # clocks of files are coarse
            return None
        with path.open("rb") as file:
            file.seek(8 * count)
            end = int.from_bytes(file.read(8), "little")
        return count if self._is_whole(local, end, found.st_size) else None


class IndexedSource(Source):
    """Base class of sources of indexed shards; subclasses define `read`."""

    def __init__(self, index: IndexedShards) -> None:
        self._index = index
        self.faults = index.faults
        self.shard_sizes = index.sizes

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._index)

    def place(self, index: int) -> str:
        """The file of a sample and its number in it; nothing is read."""
        return self._index.name(index)

    def shard_name(self, index: int) -> str:
        """Name of the shard that a sample lies in."""
        return self._index.shards[self._index.shard_of(index)[0]].name

    def read_stretch(self, index: int) -> bytes:
        """The bytes of a sample; fewer than were indexed where the file is shorter now.

        Raises:
            BadSample: The file cannot be read.
        """
        try:
            return self._index.read(self._index.place(index))
        except OSError as error:
            detail = error.strerror or str(error)
            raise BadSample("unreadable", detail, self.place(index)) from error


def _indexing_order(count: int) -> list[int]:
    """Shard numbers in an order that differs from process to process.

    Processes that start together then share the work of indexing.
    """
    numbers = list(range(count))
    random.Random(os.getpid()).shuffle(numbers)
    return numbers


def _index_paths(shard: ShardFile) -> Iterator[Path]:
    """Paths of the shard's index to try: beside it, in the cache, and last fetched by URL."""
    if not shard.is_cached:
        yield Path(shard.location + SUFFIX)
    path = _index_in_cache(shard)
    yield path
    content = read_url(shard.location + SUFFIX) if shard.is_remote and not shard.unzip else None
    if content is not None and _write(path, content):
        yield path


def _write_index(shard: ShardFile, scan: Scan) -> Path:
    """Write the index beside the shard, or else into the cache; returns its path."""
    content = scan.offsets.astype("<u8").tobytes()
    beside = Path(shard.location + SUFFIX)
    if not shard.is_cached and _write(beside, content):
        return beside
    path = _index_in_cache(shard)
    if shard.is_cached and scan.faults:  # a cached shard is not scanned again
        records = [dataclasses.asdict(fault) for fault in scan.faults]
        _write(path.with_suffix(FAULTS), json.dumps(records).encode())
    if not _write(path, content):
        raise DataError(f"{path}: an index cannot be written; set XDG_CACHE_HOME to a directory")
    return path


def _stored_faults(path: Path) -> tuple[Fault, ...]:
    """The damage that was found when the index of a cached shard was made."""
    file = path.with_suffix(FAULTS)
    if not file.is_file():
        return ()
    return tuple(Fault(**record) for record in json.loads(file.read_text(encoding="utf-8")))


def _write(path: Path, content: bytes) -> bool:
    """Write a file in one step; whether its directory can be written."""
    try:
        if path.parent.name == INDEX_FOLDER:
            path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError:
        return False
    return True


def _index_in_cache(shard: ShardFile) -> Path:
    digest = hashlib.sha256(shard.identity.encode()).hexdigest()[:32]
    return cache_directory() / INDEX_FOLDER / f"{digest}{SUFFIX}"

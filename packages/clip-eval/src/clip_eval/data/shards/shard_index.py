"""Where the samples of a shard begin: a file of numbers beside the shard, and lists of such shards.

The file is `NAME.tar.idx` beside `NAME.tar`: unsigned 64-bit little-endian offsets, one for
the first header of each sample, and one more for the end of the last sample. This is the format of
megatron-energon, so shards that it has indexed need no second pass here, and the reverse:

- A sample's stretch is the difference of two neighboring offsets, eight bytes a sample. Lengths
  and flags would add nothing, because the headers within the stretch hold the rest.
- Damage cannot be recorded in it. Therefore the end is checked when a shard is opened: an undamaged
  tar has its end-of-archive mark exactly where the index ends. Otherwise the shard is scanned
  again, so that damage is reported each time.

An index file is read in blocks, of which a few are kept: memory is O(shards), and no descriptor
stays open. It is built when a shard is first opened, and again if the shard is newer. If the
directory is read-only, it goes below `~/.cache/clip-eval/index` (or `XDG_CACHE_HOME`), and stays in
memory if that cannot be written either.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
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

from clip_eval.data.bounds import (
    SAMPLE,
    TEXT,
    open_regular,
    raise_bad_sample,
    read_bounded,
    refuse_exhaustion,
    refuse_larger,
)
from clip_eval.data.faults import BadSample, DataError, Fault
from clip_eval.data.labels import spread
from clip_eval.data.lru_cache import LRUCache
from clip_eval.data.samples import Source, locate
from clip_eval.data.shards.cache import ShardFile
from clip_eval.data.shards.open_files import OpenFiles
from clip_eval.data.storage import atomic_path, cache_directory
from clip_eval.data.urls import read_url

BLOCK = 4096  # offsets
BLOCKS = 1024  # kept in memory: 32 MiB
LEAST_SAMPLE = 16  # bytes that a sample takes in any kind of shard
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
        self._blocks = LRUCache(self._read_block, BLOCKS)
        self._index_files: list[Path] = [Path()] * len(self.shards)
        self._in_memory: dict[int, NDArray[np.uint64]] = {}
        self._elsewhere: list[int] = []  # shards whose index was written into the cache
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
            OSError: The index file cannot be read.
            DataError: It has changed.
            BadSample: Its numbers cannot be right.
        """
        shard, number = self.shard_of(index)
        block, row = divmod(number, BLOCK)
        offsets = self._blocks.get((shard, block))
        start, end = int(offsets[row]), int(offsets[row + 1])
        if not start <= end < 2**63:
            raise BadSample("bad-index", f"from byte {start} to {end}", self.name(index))
        return Place(shard, number, start, end - start)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Where indices went that could not be written beside their shards."""
        found = []
        for numbers, place in (
            (self._elsewhere, f"are now in {cache_directory() / INDEX_FOLDER}"),
            (list(self._in_memory), "are kept in memory and made again by every run"),
        ):
            if numbers:
                names = ", ".join(self.shards[number].name for number in sorted(numbers)[:3])
                more = " …" if len(numbers) > 3 else ""
                found.append(
                    f"the indices of {len(numbers)} shards ({names}{more}) cannot be written "
                    f"beside them; they {place}"
                )
        return tuple(found)

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

    def _read_block(self, key: tuple[int, int]) -> NDArray[np.uint64]:
        """Offsets of the samples of one block of a shard, and the end of the last."""
        shard, block = key
        first, count = block * BLOCK, min(BLOCK, self.sizes[shard] - block * BLOCK) + 1
        if shard in self._in_memory:
            return self._in_memory[shard][first : first + count]
        path = self._index_files[shard]
        with open(open_regular(path), "rb") as file:
            content = os.pread(file.fileno(), 8 * count, 8 * first)
            size = os.fstat(file.fileno()).st_size
        if size != 8 * (self.sizes[shard] + 1) or len(content) != 8 * count:
            raise DataError(
                f"{path}: it changed while it was in use, so samples have other numbers; "
                "start again"
            )
        return np.frombuffer(content, "<u8")

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
            written = _write_index(shard, scanned)
        except OSError as error:
            refuse_exhaustion(error, shard.name)
            raise DataError(f"{shard.name}: cannot be read ({error.strerror or error})") from error
        if written is None:
            self._in_memory[number] = scanned.offsets
        else:
            self._index_files[number] = written
            if not shard.is_cached and str(written) != shard.location + SUFFIX:
                self._elsewhere.append(number)
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
            refuse_larger(bytes_of_index.st_size, TEXT, path)
            return count  # its identity is in the name of the index
        local = shard.local()
        found = local.stat()
        if found.st_mtime_ns >= bytes_of_index.st_mtime_ns:  # clocks of files are coarse
            return None
        if count > found.st_size // LEAST_SAMPLE:
            return None
        try:
            with open(open_regular(path), "rb") as file:
                end = int.from_bytes(os.pread(file.fileno(), 8, 8 * count), "little")
        except OSError as error:  # another user's, perhaps
            refuse_exhaustion(error, str(path))
            return None
        is_possible = end <= found.st_size
        return count if is_possible and self._is_whole(local, end, found.st_size) else None


class IndexedSource(Source):
    """Base class of sources of indexed shards; subclasses define `read`."""

    def __init__(self, index: IndexedShards) -> None:
        self._index = index
        self.faults = index.faults
        self.warnings = (*self.warnings, *index.warnings)  # behind those of the layout
        self.shard_sizes = index.sizes

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._index)

    def probe(self, limit: int) -> Sequence[int]:
        """Indices to look at first: of the first shard only, where shards have to be fetched."""
        is_fetched = any(shard.is_remote for shard in self._index.shards)
        return spread(self._index.sizes[0], limit) if is_fetched else super().probe(limit)

    def place(self, index: int) -> str:
        """The file of a sample and its number in it; nothing is read."""
        return self._index.name(index)

    def shard_name(self, index: int) -> str:
        """Name of the shard that a sample lies in."""
        return self._index.shards[self._index.shard_of(index)[0]].name

    def read_stretch(self, index: int) -> bytes:
        """The bytes of a sample; fewer than were indexed where the file is shorter now.

        Raises:
            BadSample: The file cannot be read, or the sample is larger than it may be.
            DataError: The machine has run out of something, or the index has changed.
        """
        try:
            place = self._index.place(index)
            refuse_larger(place.length, SAMPLE)
            return self._index.read(place)
        except OSError as error:
            raise_bad_sample(error, self.place(index))


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


def _write_index(shard: ShardFile, scan: Scan) -> Path | None:
    """Write the index beside the shard, or else into the cache; its path, None where it cannot."""
    content = scan.offsets.astype("<u8").tobytes()
    beside = Path(shard.location + SUFFIX)
    if not shard.is_cached and _write(beside, content):
        return beside
    path = _index_in_cache(shard)
    if shard.is_cached and scan.faults:  # a cached shard is not scanned again
        records = [dataclasses.asdict(fault) for fault in scan.faults]
        _write(path.with_suffix(FAULTS), json.dumps(records).encode())
    return path if _write(path, content) else None


def _stored_faults(path: Path) -> tuple[Fault, ...]:
    """The damage that was found when the index of a cached shard was made."""
    file = path.with_suffix(FAULTS)
    if not file.is_file():
        return ()
    try:
        return tuple(Fault(**record) for record in json.loads(read_bounded(file, TEXT)))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file}: no list of faults ({error}); delete it") from error


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

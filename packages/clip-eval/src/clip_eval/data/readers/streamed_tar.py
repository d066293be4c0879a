"""Samples of a tar that is read once, from its begin to its end: files, URLs, compressed tars.

The bounds are those of shards that are read by position: names, sizes of headers, everything that
a sample holds. In a compressed tar, what lies between samples is bounded too, because a small file
may unpack to anything.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

from clip_eval.data.bounds import MEGABYTE, SAMPLE, refuse_exhaustion
from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.readers.webdataset import SampleRun, extension_of, is_hidden
from clip_eval.data.shards.tar_headers import Member, TarDamage, iter_members
from clip_eval.data.urls import base_name, open_location

HEADER_WEIGHT = 16
"""How many bytes that are passed over take the time of one of a header, roughly."""
OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""What unpacks a compressed stream, by its first bytes."""


class StreamedFiles(NamedTuple):
    """The files of one sample."""

    key: str
    parts: dict[str, bytes]  # content by extension, lower case

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.parts.values()))


def stream_tar(location: str) -> Iterator[StreamedFiles | BadSample]:
    """Read a tar from its begin to its end: its samples, and its faults where they lie.

    Args:
        location: Path or URL of a tar, which may be compressed by gzip, bzip2 or xz.

    Raises:
        DataError: The machine has run out of descriptors, memory or disk, or URLs of that scheme
            are not read here.
    """
    name, count = base_name(location), 0
    try:
        with open_location(location) as stream:
            for item in _read_samples(_ForwardBytes(stream), name):
                count += 1
                yield item
    except (DataError, MemoryError):
        raise
    except Exception as error:  # the clients of object stores raise nearly everything
        if isinstance(error, OSError):
            refuse_exhaustion(error, location)
        yield BadSample("damaged-tar", " ".join(str(error).split())[:300], name)
    else:
        if not count:
            yield BadSample("empty-tar", "no sample in it", name)


class _ForwardBytes:
    """A stream as bytes of unknown number, whose slices are taken from left to right."""

    def __init__(self, stream: IO[bytes]) -> None:
        is_local = isinstance(stream, io.BufferedReader)
        found: Any = stream if is_local else io.BufferedReader(cast(Any, stream))
        start = found.peek(8)
        unpack = next((OPENERS[mark] for mark in OPENERS if start.startswith(mark)), None)
        self._stream: Any = unpack(found) if unpack else found
        self._is_packed, self._can_seek = unpack is not None, is_local and unpack is None
        self._position = 0
        self._unused = 0  # bytes since the last content of a sample, those of headers weighted

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, part: slice) -> bytes:
        """The bytes of a slice; fewer where the stream ends before."""
        self._skip(part.start - self._position)
        found = b"".join(self._blocks(part.stop - part.start))
        self._count_unused(HEADER_WEIGHT * len(found))
        return found

    def read_content(self, member: Member) -> bytes:
        """The content of a sample's file.

        Raises:
            TarDamage: The stream ends before.
        """
        self._skip(member.offset - self._position)
        content = b"".join(self._blocks(member.size))
        if len(content) < member.size:
            raise TarDamage(member.start, f"cut in the middle of {member.name[:200]!r}")
        self._unused = 0
        return content

    def _skip(self, size: int) -> None:
        if self._can_seek:
            self._stream.seek(size, io.SEEK_CUR)
            self._position += size
            return
        for block in self._blocks(size):
            self._count_unused(len(block))

    def _count_unused(self, size: int) -> None:
        self._unused += size
        if self._is_packed and self._unused > SAMPLE.value():
            detail = f"more that belongs to no sample than {SAMPLE.variable} allows"
            raise TarDamage(self._position, detail)

    def _blocks(self, size: int) -> Iterator[bytes]:
        """The next bytes, a megabyte at a time: nothing is allocated that does not arrive."""
        while size > 0 and (block := self._stream.read(min(size, MEGABYTE))):
            self._position += len(block)
            size -= len(block)
            yield block


def _read_samples(view: _ForwardBytes, name: str) -> Iterator[StreamedFiles | BadSample]:
    """The samples of a tar; one that is too large is a fault, and its contents are not read.

    Raises:
        TarDamage: After the last whole sample, if the rest cannot be used.
    """
    run: SampleRun | None = None
    parts: dict[str, bytes] = {}
    expected: set[str] = set()  # extensions of the sample before
    size, damage = 0, None
    try:
        for member in iter_members(view):
            if is_hidden(member.name):
                continue
            if run is None or run.ends_before(member):
                if run is not None:
                    expected = run.extensions
                    yield _finish(name, run, parts, size)
                run, parts, size = SampleRun(member), {}, 0
            size += member.size
            if size <= SAMPLE.value():
                parts[extension_of(member.name)] = view.read_content(member)
            run.add(member)
    except TarDamage as error:
        damage = error
    if run is not None and (damage is None or expected <= run.extensions != set()):
        yield _finish(name, run, parts, size)
    if damage is not None:
        raise damage


def _finish(
    name: str, run: SampleRun, parts: dict[str, bytes], size: int
) -> StreamedFiles | BadSample:
    key = f"{name}/{run.stem}"
    if size <= SAMPLE.value():
        return StreamedFiles(key, parts)
    most = SAMPLE.value() // SAMPLE.unit
    return BadSample("too-large", f"{size:,} bytes, {SAMPLE.variable}={most} allows no more", key)

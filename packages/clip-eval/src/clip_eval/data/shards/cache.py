"""A shard on disk, or behind a URL and kept in a bounded cache on disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.error import HTTPError

from clip_eval.data.bounds import EXHAUSTED
from clip_eval.data.storage import PARTIAL, cache_directory, lock_file
from clip_eval.data.urls import base_name, is_unreachable, is_url, open_location

ATTEMPTS = 5
FIRST_PAUSE = 0.5  # seconds; doubled after each failure
DEFAULT_CACHE_BYTES = 50 * 2**30
COPY_BYTES = 1 << 20
GZIP_WINDOW = 31  # zlib's number for a gzip header and the largest window
LOCK = ".lock"


@dataclass(frozen=True)
class ShardCache:
    """Files fetched from URLs, the least recently used deleted first.

    Several processes may share one directory: a file is fetched once, under a lock, and appears
    complete or not at all. A file that a process is reading stays readable to it after deletion.

    Attributes:
        directory: Where files are kept; `shards` below `cache_directory` if None.
        max_bytes: Most bytes of all files together.
    """

    directory: Path | None = None
    max_bytes: int = DEFAULT_CACHE_BYTES

    def fetch(self, url: str, identity: str = "", *, unzip: bool = False) -> Path:
        """The file of a URL (or a local path to be decompressed) on disk.

        Args:
            url: Where it is.
            identity: Identifies the version of the file; the URL if empty.
            unzip: Keep it decompressed (gzip), so that it can be read by position.

        Raises:
            OSError: It cannot be fetched, or is larger than the whole cache may be.
        """
        folder = self.directory or cache_directory() / "shards"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _file_name(url, identity or url, unzip)
        with contextlib.suppress(FileNotFoundError):
            _mark_used(path)
            return path
        with lock_file(path.with_name(path.name + LOCK)):
            if not path.exists():
                self._add(url, path, unzip)
        return path

    def _add(self, url: str, path: Path, unzip: bool) -> None:
        # The lock is held: the name is always the same, so that what a killed process left is
        # overwritten.
        partial = path.with_name(path.name + PARTIAL)
        try:
            if unzip and not is_url(url):
                size = _decompress(url, url, partial, self.max_bytes)
            else:
                size = _download(url, partial, self.max_bytes)
            if unzip and is_url(url):
                plain = path.with_name(f"{path.name}.plain{PARTIAL}")
                size = _decompress(url, partial, plain, self.max_bytes)
                plain.replace(partial)
            with lock_file(path.with_name(".evict" + LOCK)):
                self._make_room(path.parent, size)
                partial.replace(path)
                _mark_used(path)
        finally:
            for leftover in (partial, path.with_name(f"{path.name}.plain{PARTIAL}")):
                leftover.unlink(missing_ok=True)

    def _make_room(self, folder: Path, size: int) -> None:
        """Delete the least recently used files until `size` more bytes fit."""
        found = []
        for path in folder.iterdir():
            if path.suffix not in (LOCK, PARTIAL):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
        used = sum(bytes_of for _, bytes_of, _ in found)
        for _, bytes_of, path in sorted(found):
            if used + size <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            used -= bytes_of


@dataclass(frozen=True)
class ShardFile:
    """One shard: a path, or a URL with the cache it goes through.

    Attributes:
        location: Path or URL.
        cache: Where a URL, or a file to be decompressed, is kept.
        unzip: Whether it is compressed by gzip.
    """

    location: str
    cache: ShardCache = ShardCache()
    unzip: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return is_url(self.location)

    @property
    def is_cached(self) -> bool:
        """Whether it is read from the cache rather than from where it is."""
        return self.is_remote or self.unzip

    @property
    def name(self) -> str:
        """The last part of the path."""
        return base_name(self.location)

    @property
    def identity(self) -> str:
        """Identifies the file; a local file that has changed has another identity."""
        if self.is_remote:
            return self.location
        status = os.stat(self.location)
        return f"{os.path.abspath(self.location)}\n{status.st_size}\n{status.st_mtime_ns}"

    def local(self) -> Path:
        """Its path on disk; a remote shard is fetched unless it is in the cache.

        Raises:
            OSError: It cannot be fetched.
        """
        if self.is_cached:
            return self.cache.fetch(self.location, self.identity, unzip=self.unzip)
        return Path(self.location)


def _download(url: str, target: Path, most: int) -> int:
    """Copy a URL or path into a file, several times if the server fails; the number of bytes."""
    pause = FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _copy(url, target, most)
        except (OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EFBIG, *EXHAUSTED):
                raise
            is_final = (
                isinstance(error, FileNotFoundError)
                or is_unreachable(error)
                or (isinstance(error, HTTPError) and 400 <= error.code < 500 and error.code != 429)
            )
            if is_final or attempt == ATTEMPTS:
                raise OSError(f"{url} cannot be fetched ({_cause(error)})") from error
            time.sleep(pause)
            pause *= 2
    raise AssertionError("the last attempt returns or raises")


def _copy(url: str, target: Path, most: int) -> int:
    """Copy what is behind a URL or path into a file; the number of bytes written."""
    with open_location(url) as stream, target.open("wb") as file:
        expected = getattr(stream, "length", None)  # what http.client still expects
        _refuse_overflow(expected or 0, most, url)
        while block := stream.read(COPY_BYTES):
            _append(file, block)
            _refuse_overflow(file.tell(), most, url)
        written = file.tell()
    if expected is not None and written != expected:
        raise OSError(f"{written:,} of {expected:,} bytes arrived")
    return written


def _append(file: IO[bytes], block: bytes) -> None:
    """Write a block of a file; an error names the file, unlike those of reading a URL."""
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        reason = f"{error.strerror or error}; other files of the cache are whole"
        raise OSError(error.errno or errno.EIO, reason, file.name) from error


def _refuse_overflow(size: int, most: int, url: str) -> None:
    if size > most:
        detail = f"{url} has {size:,} bytes or more, more than the cache may hold ({most:,})"
        raise OSError(errno.EFBIG, detail)


def _decompress(url: str, packed: str | Path, target: Path, most: int) -> int:
    """Decompress a gzip file as far as it goes; the number of bytes afterwards."""
    with open_location(str(packed)) as stream, target.open("wb") as file:
        # A stream that is cut or damaged ends early; the reader of the file reports it.
        with contextlib.suppress(zlib.error):
            for block in _iter_plain(stream):
                _append(file, block)
                _refuse_overflow(file.tell(), most, url)
        return file.tell()


def _iter_plain(stream: IO[bytes]) -> Iterator[bytes]:
    """The content of gzip streams one after the other, never more than `COPY_BYTES` at once."""
    decompressor = zlib.decompressobj(GZIP_WINDOW)
    rest = b""
    while block := rest or stream.read(COPY_BYTES):
        if decompressor.eof:  # several in a row
            decompressor = zlib.decompressobj(GZIP_WINDOW)
        yield decompressor.decompress(block, COPY_BYTES)
        rest = decompressor.unconsumed_tail or decompressor.unused_data
    yield decompressor.flush()


def _file_name(url: str, identity: str, unzip: bool) -> str:
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    name = base_name(url)
    return f"{digest}-{name.removesuffix('.gz') if unzip else name}"


def _mark_used(path: Path) -> None:
    """Set the modification time, which stands for the last use, to now in nanoseconds."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _cause(error: BaseException) -> str:
    return f"HTTP {error.code}" if isinstance(error, HTTPError) else str(error)

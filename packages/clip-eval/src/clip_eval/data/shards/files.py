"""A shard on disk, or behind a URL and kept in a bounded cache on disk."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from clip_eval.data.faults import DataError

ATTEMPTS = 5
FIRST_PAUSE = 0.5  # seconds; doubled after each failure
TIMEOUT = 60.0  # seconds without a byte
DEFAULT_CACHE_BYTES = 50 * 2**30
COPY_BYTES = 1 << 20
GZIP_WINDOW = 31  # zlib's word for a gzip header and the largest window
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
WEB_SCHEMES = ("http", "https", "file")
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "hf", "memory")
"""Schemes read through fsspec.  The list is closed: others of its schemes start programs, open
connections of their own or wrap a second URL."""


def cache_directory() -> Path:
    """Where downloads and indices go: ``$XDG_CACHE_HOME/clip-eval`` or ``~/.cache/clip-eval``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "clip-eval"


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return URL.match(text) is not None


def check_url(url: str) -> str:
    """The scheme of a URL, lower case.

    Raises:
        DataError: It is not one that is read here.
    """
    scheme = url.partition("://")[0].lower()
    known = (*WEB_SCHEMES, *OBJECT_STORES)
    if scheme not in known:
        raise DataError(f"{url}: expected a URL of {', '.join(known)}, got {scheme}://")
    if "::" in url:
        raise DataError(f"{url}: expected one URL, got several joined by ::")
    return scheme


def refuse_command(location: str) -> None:
    """Data are opened by path or URL, never by a command, as webdataset's ``pipe:`` is.

    Raises:
        DataError: The location is a command.
    """
    if location.lstrip().lower().startswith("pipe:"):
        raise DataError(
            f"{location}: expected a path or URL, got a command, which is never run; name the "
            "object itself, as in s3://bucket/{000..099}.tar"
        )


def open_location(location: str) -> IO[bytes]:
    """A file on disk or behind a URL as a stream of bytes; a name is never run as a command.

    Args:
        location: Path, or URL of a scheme in `WEB_SCHEMES` or `OBJECT_STORES`.

    Raises:
        DataError: The URL's scheme is not read here.
        OSError: It cannot be opened.
    """
    if not is_url(location):
        return open(location, "rb")
    scheme = check_url(location)
    if scheme in WEB_SCHEMES:
        request = Request(location, headers={"User-Agent": "clip-eval"})
        try:
            stream: IO[bytes] = urlopen(request, timeout=TIMEOUT)
        except URLError as error:
            if isinstance(error.reason, OSError):
                raise error.reason from error
            raise
        return stream
    try:
        fsspec: Any = importlib.import_module("fsspec")  # it has no types
        opened: IO[bytes] = fsspec.open(location, "rb").open()
    except ImportError as error:
        raise OSError(f"{scheme}:// needs a package that is not installed: {error}") from error
    return opened


@dataclass(frozen=True)
class ShardCache:
    """Files fetched from URLs, the least recently used deleted first.

    Several processes may share one directory: a file is fetched once, under a lock, and appears
    complete or not at all.  A file that a process is reading stays readable to it after deletion.

    Attributes:
        directory: Where files are kept; ``shards`` below `cache_directory` if None.
        max_bytes: Most bytes of all files together.
    """

    directory: Path | None = None
    max_bytes: int = DEFAULT_CACHE_BYTES

    def fetch(self, url: str, identity: str = "", *, unzip: bool = False) -> Path:
        """The file of a URL (or a local path to be decompressed) on disk.

        Args:
            url: Where it is.
            identity: Tells its version from others; the URL if empty.
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
        with _locked(path.with_name(path.name + ".lock")):
            if not path.exists():
                self._download(url, path, unzip)
        return path

    def _download(self, url: str, path: Path, unzip: bool) -> None:
        partial = path.with_name(path.name + ".partial")
        pause = FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                size = _copy(url, partial)
                break
            except (OSError, EOFError) as error:
                partial.unlink(missing_ok=True)
                hopeless = isinstance(error, FileNotFoundError) or (
                    isinstance(error, HTTPError) and 400 <= error.code < 500 and error.code != 429
                )
                if hopeless or attempt == ATTEMPTS:
                    raise OSError(f"{url} cannot be fetched ({_cause(error)})") from error
                time.sleep(pause)
                pause *= 2
        if unzip:
            size = _unzip(partial)
        if size > self.max_bytes:
            partial.unlink()
            raise OSError(
                f"{url} has {size:,} bytes, more than the cache may hold ({self.max_bytes:,})"
            )
        with _locked(path.parent / ".evict.lock"):
            self._make_room(path.parent, size)
            partial.replace(path)
            _mark_used(path)

    def _make_room(self, folder: Path, size: int) -> None:
        found = []
        for path in folder.iterdir():
            if path.suffix in (".lock", ".partial"):
                continue
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
        path = unquote(urlsplit(self.location).path) if self.is_remote else self.location
        return path.rpartition("/")[2]

    @property
    def identity(self) -> str:
        """Tells this file from others, and a local one from what it was before it changed."""
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


def read_url(url: str) -> bytes | None:
    """A small file behind a URL; None where there is none.

    Raises:
        OSError: The server cannot be asked.
    """
    try:
        with open_location(url) as stream:
            content: bytes = stream.read()
            return content
    except FileNotFoundError:
        return None
    except HTTPError as error:
        if 400 <= error.code < 500:
            return None
        raise


def _copy(url: str, target: Path) -> int:
    """Copy what is behind a URL or path into a file; the number of bytes written."""
    with open_location(url) as stream, target.open("wb") as file:
        expected = getattr(stream, "length", None)  # what http.client still expects
        shutil.copyfileobj(stream, file, COPY_BYTES)
        written = file.tell()
    if expected is not None and written != expected:
        raise OSError(f"{written:,} of {expected:,} bytes arrived")
    return written


def _unzip(path: Path) -> int:
    """Decompress a file in its place as far as it goes; the number of bytes then."""
    plain = path.with_name(path.name.replace(".partial", ".plain.partial"))
    decompressor = zlib.decompressobj(GZIP_WINDOW)
    with path.open("rb") as stream, plain.open("wb") as file:
        # a stream that is cut or damaged ends early: whoever reads the file will say where
        with contextlib.suppress(zlib.error):
            while block := stream.read(COPY_BYTES):
                file.write(decompressor.decompress(block))
                while decompressor.eof and (rest := decompressor.unused_data):  # several in a row
                    decompressor = zlib.decompressobj(GZIP_WINDOW)
                    file.write(decompressor.decompress(rest))
        size = file.tell()
    plain.replace(path)
    return size


def _file_name(url: str, identity: str, unzip: bool) -> str:
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    name = unquote(urlsplit(url).path if is_url(url) else url).rpartition("/")[2]
    return f"{digest}-{name.removesuffix('.gz') if unzip else name}"


def _mark_used(path: Path) -> None:
    """Make the time of last change that of the last use; the file system's own clock is coarse."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _cause(error: BaseException) -> str:
    return f"HTTP {error.code}" if isinstance(error, HTTPError) else str(error)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; it ends with the process, so none can be left behind."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

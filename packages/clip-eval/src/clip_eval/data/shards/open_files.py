"""Random reads from many files through few open descriptors; pickles into worker processes."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from clip_eval.data.bounds import open_regular

OPEN_FILES = 32
"""Files that a process keeps open for all its sources together."""
ATTEMPTS = 3

_numbers = itertools.count()


class OpenFiles:
    """The most recently read files stay open, `OPEN_FILES` of all sources of a process together.

    Args:
        locate: Path of file number `n` on disk; may fetch it first.
    """

    def __init__(self, locate: Callable[[int], Path]) -> None:
        self._locate = locate
        self._owner = next(_numbers)

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore in another process, where numbers of owners are given again."""
        self.__dict__.update(state)
        self._owner = next(_numbers)

    def __del__(self) -> None:
        """Close this source's files."""
        with contextlib.suppress(Exception):  # the interpreter may be ending
            self.close()

    def close(self) -> None:
        """Close this source's files; they are opened again when they are read."""
        for key in [key for key in _open if key[0] == self._owner]:
            del _open[key]

    def read_at(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of one file; fewer than `length` where it ends before.

        Raises:
            OSError: The file cannot be opened or read.
        """
        key = (self._owner, number)
        descriptor = _open.pop(key, None) or self._open(number)
        _open[key] = descriptor  # now the last one used
        while len(_open) > OPEN_FILES:
            del _open[next(iter(_open))]
        return os.pread(descriptor.number, length, offset)

    def _open(self, number: int) -> _Descriptor:
        for attempt in range(1, ATTEMPTS + 1):
            path = self._locate(number)
            try:
                return _Descriptor(path)
            except FileNotFoundError:  # deleted from the cache since it was located
                if attempt == ATTEMPTS:
                    raise
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not _open:
                    raise
                _open.clear()
        return _Descriptor(self._locate(number))


class _Descriptor:
    """An open file, closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = open_regular(path)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


_open: dict[tuple[int, int], _Descriptor] = {}
"""Open files by owner and number, the one used last at the end."""


class FileView:
    """A file that is read by slices of its bytes; one that becomes shorter gives shorter slices.

    Args:
        number: Its descriptor.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._length = os.fstat(number).st_size

    def __len__(self) -> int:
        """Number of bytes when it was opened."""
        return self._length

    def __getitem__(self, part: slice) -> bytes:
        """The bytes of a slice with a step of 1."""
        start, stop, _ = part.indices(self._length)
        return os.pread(self._number, max(0, stop - start), start)


@contextlib.contextmanager
def view_file(path: Path) -> Iterator[FileView]:
    """The content of a regular file by slices.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    number = open_regular(path)
    try:
        yield FileView(number)
    finally:
        os.close(number)

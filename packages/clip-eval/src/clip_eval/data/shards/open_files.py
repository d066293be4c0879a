"""Random reads from many files through few open descriptors; pickles into worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from clip_eval.data.lru_cache import LRUCache

OPEN_FILES = 64


class OpenFiles:
    """The most recently read files stay open.

    Args:
        locate: Path of file number `n` on disk; may fetch it first.
    """

    def __init__(self, locate: Callable[[int], Path]) -> None:
        self._locate = locate
        self._files = LRUCache(self._open, OPEN_FILES)

    def read_at(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of one file; fewer than `length` where it ends before.

        Raises:
            OSError: The file cannot be opened or read.
        """
        return os.pread(self._files.get(number).number, length, offset)

    def _open(self, number: int) -> _Descriptor:
        return _Descriptor(self._locate(number))


class _Descriptor:
    """An open file, closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)

"""Random reads from many files through few open descriptors; pickles into worker processes."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPEN_FILES = 64


class OpenFiles:
    """The files most recently read stay open.

    Args:
        locate: Path of file number ``n`` on disk; may fetch it first.
    """

    def __init__(self, locate: Callable[[int], Path]) -> None:
        self._locate = locate
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open files."""
        return {**self.__dict__, "_open": OrderedDict()}

    def read_at(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of one file; fewer than ``length`` where it ends before.

        Raises:
            OSError: The file cannot be opened or read.
        """
        file = self._open.get(number) or _Descriptor(self._locate(number))
        self._open[number] = file
        self._open.move_to_end(number)
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)
        return os.pread(file.number, length, offset)


class _Descriptor:
    """An open file, closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)

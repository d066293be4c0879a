"""A line on standard error that says how far a long call is."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

_WIDTH = 24
_INTERVAL = 0.1  # seconds between redrawings


class ProgressBar:
    """A bar for stages of known or unknown length.

    On a terminal one line is redrawn; elsewhere (a log file) every stage is one line.
    """

    def __init__(self, stage: str, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._terminal = self._stream.isatty()
        self._start = time.monotonic()
        self._drawn, self._length = 0.0, 0
        self._stage, self._note = stage, ""

    def __enter__(self) -> ProgressBar:
        self.stage(self._stage)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal and self._length and not self._quiet:
            self._stream.write("\r" + " " * self._length + "\r")
            self._stream.flush()

    def stage(self, name: str) -> None:
        """Begin another stage."""
        self._stage, self._note = name, ""
        if self._terminal:
            self._draw(f"{name} …")
        elif not self._quiet:
            print(f"{time.monotonic() - self._start:6.1f} s  {name}", file=self._stream, flush=True)

    def update(self, done: int, total: int, note: str = "") -> None:
        """Say how much of the stage is done, with a note such as the best score so far."""
        now = time.monotonic()
        if not self._terminal or (now - self._drawn < _INTERVAL and done < total):
            return
        self._drawn = now
        filled = _WIDTH * done // max(1, total)
        bar = "█" * filled + "·" * (_WIDTH - filled)
        self._draw(
            f"{self._stage} {bar} {done}/{total}  {now - self._start:.0f} s  {note}".rstrip()
        )

    def _draw(self, line: str) -> None:
        if self._quiet:
            return
        self._stream.write("\r" + line.ljust(self._length))
        self._stream.flush()
        self._length = len(line)

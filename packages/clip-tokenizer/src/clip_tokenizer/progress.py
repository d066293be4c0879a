"""A bar for long input, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

WAIT = 1.0
"""Seconds before anything is shown; short input shows nothing."""
INTERVAL = 0.2
WIDTH = 30


def show_progress(
    lines: Iterable[tuple[str, int]], total: int | None, stream: TextIO | None = None
) -> Iterator[str]:
    """The lines, while a bar on `stream` says how far they have come.

    Args:
        lines: Each line with the bytes it took in its file.
        total: Bytes in all; None, for a pipe, shows a count instead of a bar.
        stream: Where to write, standard error by default; nothing is written unless it is a
            terminal.
    """
    out = sys.stderr if stream is None else stream
    if not out.isatty():
        yield from (line for line, _ in lines)
        return
    started = time.monotonic()
    due = started + WAIT
    shown = False
    count = done = 0
    for line, size in lines:
        count += 1
        done += size
        if count % 256 == 0 and (now := time.monotonic()) >= due:
            out.write("\r" + _describe(count, done, total, now - started))
            out.flush()
            due = now + INTERVAL
            shown = True
        yield line
    if shown:
        elapsed = time.monotonic() - started
        out.write("\r" + _describe(count, done, total, elapsed) + "\n")


def _describe(count: int, done: int, total: int | None, elapsed: float) -> str:
    """One line: bar and share if the total is known, lines, lines a second."""
    text = f"{count:,} lines, {count / max(elapsed, 1e-9):,.0f}/s"
    if not total:
        return text
    share = min(done / total, 1.0)
    filled = round(WIDTH * share)
    return f"[{'#' * filled}{'.' * (WIDTH - filled)}] {share:4.0%}  {text}"

"""Progress bars for terminals and log files."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOG_FILE_INTERVAL = 15.0  # seconds between two lines of a bar in a log file


def progress_bar(
    items: Iterable[Any] | None = None, desc: str = "", *, show: bool, **options: Any
) -> tqdm[Any]:
    """A tqdm bar on standard error; none if `show` is false."""
    terminal = sys.stderr.isatty()
    interval = 0.1 if terminal else LOG_FILE_INTERVAL
    return tqdm(
        items, desc, disable=not show, mininterval=interval, dynamic_ncols=terminal, **options
    )


def restart_clock(bar: tqdm[Any]) -> None:
    """Leave what was done so far, and its time, out of a bar's rate and remaining time."""
    bar.initial = bar.n
    bar.unpause()

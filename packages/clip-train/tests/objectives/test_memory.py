"""What the tiled loss is for: memory that does not grow with the square of the batch."""

from __future__ import annotations

import runpy
from pathlib import Path

processes = runpy.run_path(str(Path(__file__).parents[1] / "workers" / "processes.py"))


def test_tiles_need_a_tenth_of_the_memory() -> None:
    plain, tiled = (
        processes["run_processes"](1, "peak_memory.py", batch=6144, width=64, tile=tile)[0]
        for tile in (None, 256)
    )
    assert plain > 4 * 6144**2  # the scores alone
    assert tiled < plain / 10

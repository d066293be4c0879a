"""However it is computed, every gradient is that of one process with the whole batch."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORKERS = Path(__file__).parent / "workers"
run_processes = runpy.run_path(str(WORKERS / "processes.py"))["run_processes"]
worker = runpy.run_path(str(WORKERS / "whole_batch.py"))


@pytest.fixture(scope="module")
def oracle() -> dict[str, dict[str, Any]]:
    """One process, the whole batch at once, no tiles: by kind of loss."""
    found = worker["run"]("single")
    return {kind: found[kind, 1, None] for kind in worker["KINDS"]}


def check(found: dict[Any, dict[str, Any]], oracle: dict[str, dict[str, Any]]) -> None:
    for (kind, accumulation, tile), values in found.items():
        assert values.keys() == oracle[kind].keys()
        for name, value in values.items():
            reference = oracle[kind][name]
            error = np.abs(value - reference).max()
            largest = max(np.abs(reference).max(), 1e-6)
            assert error <= 1e-9 * largest, (kind, accumulation, tile, name, error / largest)


def test_in_parts_and_in_tiles_on_one_process(oracle: dict[str, dict[str, Any]]) -> None:
    check(worker["run"]("single"), oracle)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes(world: int, oracle: dict[str, dict[str, Any]]) -> None:
    for found in run_processes(world, "whole_batch.py", names=["ddp", "fsdp2"]):
        for results in found:
            check(results, oracle)

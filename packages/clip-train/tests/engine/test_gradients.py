"""However it is computed, every gradient is that of one process with the whole batch."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORKERS = Path(__file__).parents[1] / "workers"
run_processes = runpy.run_path(str(WORKERS / "processes.py"))["run_processes"]
worker = runpy.run_path(str(WORKERS / "whole_batch.py"))
KINDS = ("infonce", "multi_positive")


@pytest.fixture(scope="module")
def oracle() -> dict[str, dict[str, Any]]:
    return whole_batches("dropping")


def whole_batches(variant: str) -> dict[str, dict[str, Any]]:
    """One process, the whole batch at once, no tiles: by kind of loss."""
    found = worker["run"]("single", variant, [(kind, 1, None) for kind in worker["KINDS"]])
    return {kind: found[kind, 1, None] for kind in worker["KINDS"]}


def check(found: dict[Any, dict[str, Any]], oracle: dict[str, dict[str, Any]]) -> None:
    for (kind, accumulation, tile), values in found.items():
        assert values.keys() == oracle[kind].keys()
        for name, value in values.items():
            reference = oracle[kind][name]
            error = np.abs(value - reference).max()
            largest = max(np.abs(reference).max(), 1e-6)
            tolerance = 1e-6 if ".scores." in name else 1e-9  # a pooler's scores are fp32 within
            assert error <= tolerance * largest, (kind, accumulation, tile, name, error / largest)


def test_in_parts_and_in_tiles_on_one_process(oracle: dict[str, dict[str, Any]]) -> None:
    check(worker["run"]("single"), oracle)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes(world: int, oracle: dict[str, dict[str, Any]]) -> None:
    for found in run_processes(world, "whole_batch.py", names=["ddp", "fsdp2"]):
        for results in found:
            check(results, oracle)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_images_of_their_own_shape(world: int) -> None:
    """Ranks have different numbers of images, and images different numbers of patches."""
    oracle, cases = whole_batches("native"), [(kind, n, None) for kind in KINDS for n in (1, 4)]
    if world == 1:
        check(worker["run"]("single", "native", cases), oracle)
        return
    for found in run_processes(
        world, "whole_batch.py", names=["ddp", "fsdp2"], variant="native", cases=cases
    ):
        for results in found:
            check(results, oracle)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
def test_parts_and_tiles_that_divide_nothing(world: int) -> None:
    """With a learned pooling and its auxiliary loss, dropped patches, and layers computed again."""
    oracle = whole_batches("pooling")
    assert any("pooling" in name for name in oracle["infonce"])
    check(worker["run"]("single", "pooling", worker["UNEVEN"]), oracle)
    given = {"variant": "pooling", "cases": worker["UNEVEN"]}
    for found in run_processes(world, "whole_batch.py", names=["ddp", "fsdp2"], **given):
        for results in found:
            check(results, oracle)

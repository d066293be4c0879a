"""The GPU check at toy sizes on a CPU, and what it makes of checks that fail, crash or hang."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from clip_train.gpu_check.checks import CHECKS, Check, run_missing
from clip_train.gpu_check.command import main, supervise
from clip_train.gpu_check.figures import Figure, Outcome, load_outcome, save_outcome
from clip_train.gpu_check.report import count_faults, write_report
from clip_train.gpu_check.setting import Setting, relative_difference

IN_PROCESS = ("towers", "losses", "pooling", "packing", "loss-memory", "transfer")

FAULTY = """
import os, sys, time
from pathlib import Path
import torch
from clip_train.gpu_check.checks import Check, run_missing
from clip_train.gpu_check.figures import Figure
from clip_train.gpu_check.setting import Setting

def good(setting):
    yield Figure(what="good", value=1.0)

def fails(setting):
    yield Figure(what="before", value=1.0)
    raise ValueError("no such\\nkernel")

def crashes(setting):
    os._exit(7)

def hangs(setting):
    time.sleep(3600)
    yield

checks = [Check(f.__name__, f, 600) for f in (fails, crashes, hangs, good)]
directory = Path(sys.argv[1])
run_missing(Setting(torch.device("cpu"), True, directory), directory, tuple(checks))
"""


def checks_with(hang_seconds: float) -> list[Check]:
    def nothing(setting: Setting) -> Iterator[Figure]:
        yield from ()

    limits = {"fails": 600.0, "crashes": 600.0, "hangs": hang_seconds, "good": 600.0}
    return [Check(name, nothing, seconds) for name, seconds in limits.items()]


def test_a_crash_or_a_hang_ends_one_check_only(tmp_path: Path) -> None:
    checks = checks_with(hang_seconds=1.0)
    supervise([sys.executable, "-c", FAULTY, str(tmp_path)], tmp_path, checks, seconds=600)
    found = {check.name: load_outcome(tmp_path, check.name) for check in checks}
    errors = {name: outcome.error if outcome else "missing" for name, outcome in found.items()}
    assert errors["fails"].startswith("ValueError: no such kernel (")
    assert errors["crashes"] == "the process ended with exit code 7"
    assert errors["hangs"] == "not finished after 1 s"
    assert errors["good"] is None
    assert found["fails"].figures[0].what == "before"


def test_what_the_time_does_not_reach_is_taken_up_next_time(tmp_path: Path) -> None:
    checks = checks_with(hang_seconds=600.0)
    command = [sys.executable, "-c", FAULTY, str(tmp_path)]
    for name in ("fails", "crashes"):
        save_outcome(tmp_path, Outcome(check=name, seconds=0.0))
    supervise(command, tmp_path, checks, seconds=20)
    assert load_outcome(tmp_path, "hangs") is None
    save_outcome(tmp_path, Outcome(check="hangs", seconds=0.0))
    supervise(command, tmp_path, checks, seconds=600)
    assert load_outcome(tmp_path, "good") is not None


def test_figures_equal_the_cpu_or_are_faults(tmp_path: Path) -> None:
    setting = Setting(torch.device("cpu"), is_small=True, folder=tmp_path)
    run_missing(setting, tmp_path, tuple(c for c in CHECKS if c.name in IN_PROCESS))
    outcomes = [load_outcome(tmp_path, name) for name in IN_PROCESS]
    assert [outcome.error for outcome in outcomes if outcome] == [None] * len(IN_PROCESS)
    assert count_faults(outcomes) == 0
    limited = [f for outcome in outcomes for f in outcome.figures if f.limit is not None]
    assert len(limited) > 25


def test_the_report_names_what_does_not_hold(tmp_path: Path) -> None:
    wrong = Figure(what="features", value=0.5, limit=1e-4)
    missing = Figure(what="gradients", value=None, limit=1e-4)
    speed = Figure(what="speed", value=30.0, unit="samples/s", peer=20.0, peer_name="theirs")
    outcomes = [
        Outcome(check="towers", seconds=1.0, figures=(wrong, missing, speed)),
        Outcome(check="losses", seconds=1.0, error="out of memory"),
    ]
    assert count_faults(outcomes) == 3
    write_report(tmp_path, outcomes, ["resume"])
    page = (tmp_path / "gpu.md").read_text()
    assert "| features | 0.5 |  |  | 0.0001: **exceeded** |" in page
    assert "| gradients | – |  |  | 0.0001: **exceeded** |" in page
    assert "| speed | 30 samples/s | 20 theirs | 1.50 |  |" in page
    assert "**losses** failed: out of memory" in page
    assert "**resume** was not reached" in page
    assert json.loads((tmp_path / "gpu.json").read_text())["missing"] == ["resume"]


def test_differences_are_relative_to_the_largest_value() -> None:
    expected = torch.tensor([4.0, -2.0])
    assert relative_difference([expected + 1], [expected]) == pytest.approx(0.25)


@pytest.mark.slow
def test_every_check_runs_at_toy_size(tmp_path: Path) -> None:
    """On CIFAR-10 it trains only where the data are given."""
    code = main(["--out", str(tmp_path), "--device", "cpu", "--minutes", "20"])
    page = (tmp_path / "gpu.md").read_text()
    assert code == 0, page
    assert f"{len(CHECKS)} checks, 0 faults, 0 not reached" in page

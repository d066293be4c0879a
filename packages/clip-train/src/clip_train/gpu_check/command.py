"""The command: a process that runs the checks, watched by one that outlives its crashes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from clip_models.command_line import CommandParser, run_command
from clip_models.devices import choose_device

from clip_train.gpu_check.checks import CHECKS, CURRENT, Check, run_missing
from clip_train.gpu_check.figures import Outcome, load_outcome, outcome_path, save_outcome
from clip_train.gpu_check.report import PAGE_NAME, count_faults, write_report
from clip_train.gpu_check.setting import Setting

PROG = "python -m clip_train.gpu_check"
POLL_SECONDS = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and write the report; the exit code is 1 if something does not hold."""
    parser = CommandParser(
        prog=PROG,
        description="Check a GPU against the CPU, and measure what only it can show. What is in "
        "--out is kept: the same command goes on where it was interrupted.",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the report")
    parser.add_argument("--minutes", type=float, default=8, help="time for all checks (default 8)")
    parser.add_argument("--device", default="auto", help="cuda, cpu or auto (default)")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as train/CLASS/* and val/CLASS/*")
    parser.add_argument("--only", nargs="+", choices=[c.name for c in CHECKS], metavar="CHECK")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    return run_command(PROG, lambda: _run(options), (ValueError,))


def _run(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    checks = tuple(c for c in CHECKS if not options.only or c.name in options.only)
    folder = options.out / "work"
    setting = Setting(device, device.type != "cuda", folder.absolute(), options.cifar)
    if options.worker:
        run_missing(setting, options.out, checks)
        return 0
    folder.mkdir(exist_ok=True)
    words = ["--out", str(options.out), "--device", str(device), "--worker"]
    words += ["--cifar", str(options.cifar)] if options.cifar else []
    words += ["--only", *options.only] if options.only else []
    command = [sys.executable, "-m", "clip_train.gpu_check", *words]
    supervise(command, options.out, checks, seconds=60 * options.minutes)
    found = [load_outcome(options.out, check.name) for check in checks]
    outcomes = [outcome for outcome in found if outcome is not None]
    missing = [c.name for c, outcome in zip(checks, found, strict=True) if outcome is None]
    write_report(options.out, outcomes, missing)
    faults = count_faults(outcomes)
    page = options.out / PAGE_NAME
    print(f"{page}: {len(outcomes)} checks, {faults} faults, {len(missing)} not reached")
    return int(faults > 0)


def supervise(
    command: list[str], directory: Path, checks: Sequence[Check], *, seconds: float
) -> None:
    """Start the process again after a crash or a check that takes too long, until all is done.

    Args:
        command: Of the process, which runs the checks that have no outcome.
        directory: Of the outcomes.
        checks: Those that it runs.
        seconds: After which the process is ended, and what it was doing counts as not reached.
    """
    end = time.time() + seconds
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # for deterministic sums
    while time.time() < end and any(not outcome_path(directory, c.name).is_file() for c in checks):
        (directory / CURRENT).unlink(missing_ok=True)
        process = subprocess.Popen(command, env=environment)
        try:
            error = _watch(process, directory, checks, end)
        finally:
            process.kill()
            process.wait()
        name = _current(directory)[0]
        if error is None or name is None:  # all is done, no time is left, or it cannot start
            return
        if not outcome_path(directory, name).is_file():
            save_outcome(directory, Outcome(check=name, seconds=0.0, error=error))


def _watch(
    process: subprocess.Popen[bytes], directory: Path, checks: Sequence[Check], end: float
) -> str | None:
    """Wait for the process; why the check that it was in has failed, or None."""
    limits = {check.name: check.seconds for check in checks}
    while (code := process.poll()) is None:
        time.sleep(POLL_SECONDS)
        name, began = _current(directory)
        if time.time() > end:
            return None
        if name is not None and time.time() - began > limits[name]:
            return f"not finished after {limits[name]:g} s"
    return None if code == 0 else f"the process ended with exit code {code}"


def _current(directory: Path) -> tuple[str | None, float]:
    """The check that is being run, and since when."""
    try:
        values = json.loads((directory / CURRENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, 0.0
    return values["check"], values["began"]

"""The checks in order of worth, and the process that runs them one after another."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from clip_train.gpu_check import equality, runs, speed
from clip_train.gpu_check.figures import Figure, Outcome, outcome_path, save_outcome
from clip_train.gpu_check.machine import describe_machine
from clip_train.gpu_check.setting import Setting
from clip_train.logs.files import replace_text

CURRENT = "current.json"


class Check(NamedTuple):
    """One check.

    Attributes:
        name: Of its outcome.
        run: Yields its figures.
        seconds: After which it is given up.
    """

    name: str
    run: Callable[[Setting], Iterator[Figure]]
    seconds: float


CHECKS = (
    Check("towers", equality.check_towers, 120),
    Check("losses", equality.check_losses, 40),
    Check("pooling", equality.check_pooling, 40),
    Check("packing", equality.check_packing, 40),
    Check("resume", runs.check_resume, 90),
    Check("steps", speed.check_steps, 240),
    Check("loss-memory", speed.check_loss_memory, 60),
    Check("token-counts", speed.check_token_counts, 90),
    Check("pooled-towers", speed.check_pooled_towers, 90),
    Check("supernet", speed.check_supernet, 120),
    Check("processes", runs.check_processes, 150),
    Check("transfer", speed.check_transfer, 40),
    Check("decoding", runs.check_decoding, 120),
    Check("cifar10-94", runs.check_cifar, 600),
)


def run_missing(setting: Setting, directory: Path, checks: tuple[Check, ...] = CHECKS) -> None:
    """Run the checks that have no outcome yet; what fails is an outcome too."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for check in checks:
        if outcome_path(directory, check.name).is_file():
            continue
        began = time.time()
        replace_text(directory / CURRENT, json.dumps({"check": check.name, "began": began}))
        save_outcome(directory, _run(setting, check))
        if setting.on_gpu:
            torch.cuda.empty_cache()


def _run(setting: Setting, check: Check) -> Outcome:
    figures: list[Figure] = []
    began, error = time.perf_counter(), None
    try:
        figures.extend(check.run(setting))
    except Exception as problem:
        where = traceback.extract_tb(problem.__traceback__)[-1]
        text = " ".join(f"{type(problem).__name__}: {problem}".split())
        error = f"{text[:300]} ({Path(where.filename).name}:{where.lineno})"
    return Outcome(
        check=check.name,
        seconds=time.perf_counter() - began,
        figures=tuple(figures),
        error=error,
        machine=describe_machine(setting.device),
    )

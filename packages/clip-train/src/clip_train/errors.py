"""Errors of a run, of its directory and of its processes; importing them needs no torch."""

from __future__ import annotations

from pathlib import Path


class TrainingError(RuntimeError):
    """A run that cannot continue; its last checkpoint stays."""


class BackendError(RuntimeError):
    """A backend that cannot be used as asked."""


class RunDirectoryError(ValueError):
    """A directory that cannot be used for the run as asked."""


class ShapesError(ValueError):
    """A shapes data set that cannot be written as asked."""


class Interrupted(Exception):
    """A run that was stopped by a signal and has saved a checkpoint."""

    def __init__(self, step: int, total_steps: int, path: Path) -> None:
        super().__init__(
            f"stopped at step {step} of {total_steps}; continue with `clip-train resume {path}`"
        )

"""How a run can end before its time."""

from __future__ import annotations

from pathlib import Path


class TrainingError(RuntimeError):
    """A run that cannot go on; its last checkpoint stays."""


class Interrupted(Exception):
    """The run was asked to stop and has saved a checkpoint."""

    def __init__(self, step: int, total_steps: int, path: Path) -> None:
        super().__init__(
            f"stopped at step {step} of {total_steps}; go on with `clip-train resume {path}`"
        )

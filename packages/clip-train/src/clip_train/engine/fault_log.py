"""Training samples that could not be used: logged once each, and too many of them end the run."""

from __future__ import annotations

import warnings
from collections import Counter

from clip_train.data.batches import SampleFault
from clip_train.errors import TrainingError
from clip_train.logs.run_directory import RunDirectory


class FaultLog:
    """The faulty samples of a run, over all ranks and all its resumes."""

    def __init__(self, directory: RunDirectory, *, max_faults: int) -> None:
        self.directory = directory
        self.max_faults = max_faults
        self.samples: set[str] = set()

    def restore(self) -> None:
        """Count what the metrics of an interrupted run name."""
        for row in self.directory.metrics("fault"):
            if row["step"]:  # those of step 0 were found before training, and never planned
                self.samples.update(row["samples"])

    def select_new(self, faults: list[SampleFault]) -> list[list[str]]:
        """Reason and sample of each fault that has not been counted."""
        return [list(fault) for fault in faults if fault.detail not in self.samples]

    def add(self, step: int, faults: list[list[str]]) -> None:
        """Count new faults of all ranks.

        Raises:
            TrainingError: There are more than `max_faults`.
        """
        reasons = dict(reversed([(sample, reason) for reason, sample in faults]))
        self.samples.update(reasons)
        row = {"counts": Counter(reasons.values()), "samples": list(reasons)}
        self.directory.log("fault", step, row)
        if len(self.samples) > self.max_faults:
            raise TrainingError(
                f"{len(self.samples)} samples could not be read, more than data.max_faults = "
                f"{self.max_faults}; the last: {faults[-1][1]}"
            )

    def warn(self) -> None:
        """Say at the end of a run that there were faults."""
        if self.samples:
            warnings.warn(
                f"{len(self.samples)} training samples could not be read and were replaced, such "
                f"as {sorted(self.samples)[0]}; metrics.jsonl names all of them",
                stacklevel=3,
            )

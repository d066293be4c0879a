"""Training samples that could not be used: logged once each, and too many of them end the run."""

from __future__ import annotations

import warnings
from collections import Counter

from clip_train.data.batches import SampleFault
from clip_train.errors import TrainingError
from clip_train.logs.run_directory import RunDirectory

FEWEST_FAULTS = 100  # fewer never end a run whose limit is a share


class FaultLog:
    """The faulty samples of a run, over all ranks and all its resumes."""

    def __init__(self, directory: RunDirectory, *, max_faults: float) -> None:
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

    def add(self, step: int, faults: list[list[str]], *, read: int) -> None:
        """Count new faults of all ranks.

        Args:
            step: Steps done.
            faults: Reason and sample of each.
            read: Number of samples read so far.

        Raises:
            TrainingError: There are more than `max_faults` allows.
        """
        reasons = dict(reversed([(sample, reason) for reason, sample in faults]))
        self.samples.update(reasons)
        row = {"counts": Counter(reasons.values()), "samples": list(reasons)}
        self.directory.log("fault", step, row)
        is_share = 0 < self.max_faults < 1
        limit = max(FEWEST_FAULTS, self.max_faults * read) if is_share else self.max_faults
        if len(self.samples) > limit:
            share = f" of the {read:,} read so far" if is_share else ""
            raise TrainingError(
                f"{len(self.samples):,} samples could not be read, more than data.max_faults = "
                f"{self.max_faults:g}{share}; the last: {faults[-1][1]}. metrics.jsonl names all; "
                "mend them, or raise data.max_faults"
            )

    def warn(self) -> None:
        """Say at the end of a run that there were faults."""
        if self.samples:
            warnings.warn(
                f"{len(self.samples)} training samples could not be read and were replaced, such "
                f"as {sorted(self.samples)[0]}; metrics.jsonl names all of them",
                stacklevel=3,
            )

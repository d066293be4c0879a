"""Errors of a process whose peers are gone, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from clip_train.distributed import Backend
from clip_train.training_error import TrainingError

# What gloo and NCCL say when a peer is dead or does not answer.
_MARKS = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "broken pipe")


@contextmanager
def naming_lost_peers(backend: Backend) -> Iterator[None]:
    """Turn a failed exchange into a TrainingError.

    Raises:
        TrainingError: Another process does not answer.
    """
    try:
        yield
    except TrainingError:
        raise
    except RuntimeError as error:
        text = str(error).lower()
        failed = isinstance(error, dist.DistError) or any(mark in text for mark in _MARKS)
        if backend.world == 1 or not failed:
            raise
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"process {backend.rank} of {backend.world} lost the others ({reason}); see what the "
            "first of them that ended says, then go on with `clip-train resume`"
        ) from error

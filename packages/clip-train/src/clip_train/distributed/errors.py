"""Errors that ranks share: of the first rank, and of ranks that no longer answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from clip_train.distributed.protocol import Backend
from clip_train.errors import TrainingError

# What the messages of gloo and NCCL contain when a rank is dead or does not answer.
_LOST_RANK = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "broken pipe")


def run_on_first_rank(backend: Backend, function: Callable[[], object]) -> None:
    """Call `function` on rank 0; its error is an error on all ranks, which call this together.

    Raises:
        OSError: The function failed on rank 0 and this is another rank.
    """
    error: Exception | None = None
    if backend.rank == 0:
        try:
            function()
        except Exception as caught:
            error = caught
    message = None if error is None else f"{type(error).__name__}: {error}"
    reason = backend.all_gather_object(message)[0]
    if error is not None:
        raise error
    if reason is not None:
        raise OSError(f"on the first process: {reason}")


@contextmanager
def report_lost_ranks(backend: Backend) -> Iterator[None]:
    """Turn a failed exchange between ranks into a `TrainingError`.

    Raises:
        TrainingError: Another rank does not answer.
    """
    try:
        yield
    except TrainingError:
        raise
    except RuntimeError as error:
        text = str(error).lower()
        lost = isinstance(error, dist.DistError) or any(p in text for p in _LOST_RANK)
        if backend.world_size == 1 or not lost:
            raise
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"process {backend.rank} of {backend.world_size} lost the others ({reason}); read the "
            "message of the one that ended first, then continue with `clip-train resume`"
        ) from error

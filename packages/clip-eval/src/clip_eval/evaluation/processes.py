"""The processes of `torchrun`, where it started this one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed

from clip_eval.errors import EvaluationError


@dataclass(frozen=True)
class Processes:
    """Rank of this process, and the number of processes."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the process group of `torchrun`; a single process without it."""
    world_size = _read_number("WORLD_SIZE", 1, least=1)
    if world_size == 1:
        yield Processes()
        return
    rank = _read_number("RANK", None, most=world_size - 1)
    local_rank = _read_number("LOCAL_RANK", 0, most=world_size - 1)
    try:
        torch.distributed.init_process_group("gloo")
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(
            f"process {rank} of {world_size} cannot join the others ({reason}); unset WORLD_SIZE "
            "to evaluate in one process"
        ) from error
    try:
        yield Processes(rank=rank, world_size=world_size, local_rank=local_rank)
        torch.distributed.barrier()  # nobody closes connections that another rank still uses
    finally:
        torch.distributed.destroy_process_group()


def _read_number(name: str, default: int | None, *, least: int = 0, most: int = 2**20) -> int:
    """A number that torchrun put into the environment.

    Raises:
        EvaluationError: It is missing and has no default, is no number, or is out of range.
    """
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    digits = text or ""
    if not (digits.isascii() and digits.isdigit() and len(digits) < 8):
        raise EvaluationError(f"{name} must be a number, as torchrun sets it, got {digits!r:.40}")
    if not least <= int(digits) <= most:
        raise EvaluationError(f"{name} must be from {least} to {most}, got {digits}")
    return int(digits)

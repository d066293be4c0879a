"""Training on the processes that torchrun started; with one process nothing is communicated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from dtp_pooling.command_line import LaunchError, read_launch
from dtp_pooling.devices import choose_device

_TIMEOUT = timedelta(hours=6)  # other ranks wait while the first one evaluates
Result = TypeVar("Result")


@contextmanager
def join_processes(device: str) -> Iterator[torch.device]:
    """The device of this process, in the process group of torchrun if there is one.

    Args:
        device: Name of a device; on several processes `cuda` and `auto` take the one of the
            local rank.

    Raises:
        ValueError: The device cannot be used.
        LaunchError: The process group cannot be joined.
    """
    launch = read_launch()
    if launch.world_size == 1:
        yield choose_device(device)
        return
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{launch.local_rank}"
    chosen = choose_device(device)
    kind = "nccl" if chosen.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(kind, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise LaunchError(
            f"process {launch.rank} of {launch.world_size} cannot join the others ({reason}); "
            "start with torchrun, or unset WORLD_SIZE"
        ) from error
    try:
        yield chosen
        distributed.barrier()  # nobody closes connections that another rank still uses
    finally:
        distributed.destroy_process_group()


def rank_and_world_size() -> tuple[int, int]:
    """The rank and the world size; (0, 1) without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def call_on_first_rank(function: Callable[[], Result]) -> Result:
    """What `function` returns on rank 0, on every rank; where it raises, the others exit quietly.

    Raises:
        Exception: On rank 0, what `function` raises.
        SystemExit: On the other ranks, when it raised.
    """
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return function()
    result: list[Result | None] = [None]
    failed = [True]
    try:
        if rank == 0:
            result, failed = [function()], [False]
    finally:
        distributed.broadcast_object_list(failed, 0)
    if failed[0]:
        raise SystemExit(2)
    distributed.broadcast_object_list(result, 0)
    return result[0]  # type: ignore[return-value]


def rows_of_rank(rows: int) -> slice:
    """Which of the rows of a batch are this rank's; the first ranks have one more if need be.

    Raises:
        ValueError: There are fewer rows than ranks.
    """
    rank, world_size = rank_and_world_size()
    if rows < world_size:
        raise ValueError(
            f"batch_size must be at least {world_size}, the number of processes, got {rows}"
        )
    least, more = divmod(rows, world_size)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its sum over the ranks."""
    if rank_and_world_size()[1] == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over the ranks."""
    if rank_and_world_size()[1] > 1:
        distributed.all_reduce(values)
    return values


def is_any(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any rank."""
    if rank_and_world_size()[1] == 1:
        return flag
    return bool(sum_over_ranks(torch.tensor(int(flag), device=device)))

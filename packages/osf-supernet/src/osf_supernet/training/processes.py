"""Training on the processes that torchrun started. B rows of a rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from osf_supernet.command_line import LaunchError, read_launch
from osf_supernet.graph.graph import named_tensors
from osf_supernet.supernet import Supernet


@contextmanager
def process_group(device: torch.device | str = "cpu") -> Iterator[int]:
    """Join the processes of torchrun; the rank, 0 without torchrun.

    Args:
        device: of the model: NCCL carries its tensors on CUDA, gloo on the CPU.

    Raises:
        LaunchError: They cannot be joined.
    """
    launch = read_launch()
    if launch.world_size == 1:
        yield 0
        return
    on_cuda = torch.device(device).type == "cuda"
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise LaunchError(
            f"process {launch.rank} of {launch.world_size} cannot join the others ({reason}); "
            "start with torchrun, or unset WORLD_SIZE"
        ) from error
    try:
        yield distributed.get_rank()
        distributed.barrier()  # nobody closes connections that another rank still uses
    finally:
        distributed.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """The rank and the world size; (0, 1) without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def shard_rows(rows: Tensor) -> Tensor:
    """This rank's part (B, …) of the rows (B · world, …) of all ranks."""
    rank, world = rank_and_world()
    return rows.chunk(world)[rank]


def all_gather_object(own: Any) -> list[Any]:
    """The objects of all ranks, in the order of ranks."""
    world = rank_and_world()[1]
    if world == 1:
        return [own]
    found: list[Any] = [None] * world
    distributed.all_gather_object(found, own)
    return found


def broadcast_supernet(net: Supernet) -> None:
    """Give every rank the first one's weights and order of blocks."""
    if rank_and_world()[1] == 1:
        return
    for tensor in named_tensors(net.model).values():
        distributed.broadcast(tensor.detach(), 0)
    orders = [net.depth_orders]
    distributed.broadcast_object_list(orders, 0)
    net.depth_orders = orders[0]


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate (B, …) of every rank; itself without a process group.

    The gradient that a rank's rows get is the sum over ranks of the gradients they gave them.
    With the same loss of all rows on every rank, averaging parameter gradients over ranks then
    gives those of one process with all rows. Ranks must bring equally many rows.
    """
    if rank_and_world()[1] == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # the caller's stays
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]

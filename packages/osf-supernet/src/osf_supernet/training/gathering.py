"""Rows of all ranks, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate (B, …) of every rank; itself without a process group.

    The gradient that a rank's rows get is the sum over ranks of the gradients they gave them.
    With the same loss of all rows on every rank, averaging parameter gradients over ranks then
    gives those of one process with all rows. Ranks must bring equally many rows.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
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
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]

"""What objectives need of several processes, with gradients.

A batch is spread over R ranks. Every rank computes its share of a loss; the loss is the sum of the
shares, and a gradient is right when the ranks' gradients, *added*, are the gradient of that sum.
All functions here keep that promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Communicator(Protocol):
    """Rank, world size, and three ways to exchange tensors (none is differentiable)."""

    rank: int
    world_size: int

    def all_gather(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The tensors of all ranks in order; rank r's has `counts[r]` rows."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """A new tensor: the sum over all ranks."""

    def ring_shift(self, x: Tensor, rows: int) -> Tensor:
        """The next rank's tensor, which has `rows` rows; the last rank gets the first one's."""


class SingleProcess:
    """One process: nothing to exchange."""

    rank = 0
    world_size = 1

    def all_gather(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The tensor itself."""
        return [x]

    def all_reduce(self, x: Tensor) -> Tensor:
        """A copy of the tensor."""
        return x.clone()

    def ring_shift(self, x: Tensor, rows: int) -> Tensor:
        """The tensor itself."""
        return x


SINGLE_PROCESS = SingleProcess()


def all_gather_rows(x: Tensor, counts: Sequence[int], communicator: Communicator) -> Tensor:
    """All ranks' rows in order, (sum(counts), …); every rank's use of a row reaches its owner."""
    if communicator.world_size == 1:
        return x
    return _AllGatherRows.apply(x, tuple(counts), communicator)


def all_reduce_sum(x: Tensor, communicator: Communicator) -> Tensor:
    """The sum over ranks; every rank's use of it reaches every summand."""
    if communicator.world_size == 1:
        return x
    return _AllReduceSum.apply(x, communicator)


def rows_of_rank(counts: Sequence[int], rank: int) -> slice:
    """Where the rows of `rank` stand among all."""
    start = sum(counts[:rank])
    return slice(start, start + counts[rank])


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: tuple[int, ...], communicator: Communicator) -> Tensor:
        ctx.counts, ctx.communicator = counts, communicator
        return torch.cat(communicator.all_gather(x, counts))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = all_reduce_sum(gradients[0], ctx.communicator)
        return total[rows_of_rank(ctx.counts, ctx.communicator.rank)], None, None


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, communicator: Communicator) -> Tensor:
        ctx.communicator = communicator
        return communicator.all_reduce(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_reduce_sum(gradients[0], ctx.communicator), None

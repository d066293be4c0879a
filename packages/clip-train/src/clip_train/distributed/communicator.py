"""What objectives need of several processes, and its gradients.

A batch is spread over R ranks.  Every rank computes its share of a loss; the loss is the sum of the
shares, and a gradient is right when the ranks' gradients, *added*, are the gradient of that sum.
All functions here keep that promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Communicator(Protocol):
    """Rank, number of ranks, and three ways to exchange tensors (none is differentiable)."""

    rank: int
    world: int

    def gather(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The tensors of all ranks in order; rank r's has `counts[r]` rows."""

    def sum(self, x: Tensor) -> Tensor:
        """A new tensor: the sum over all ranks."""

    def shift(self, x: Tensor, rows: int) -> Tensor:
        """The next rank's tensor, which has `rows` rows; the last rank gets the first one's."""


class Solo:
    """One process alone."""

    rank = 0
    world = 1

    def gather(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The tensor itself."""
        return [x]

    def sum(self, x: Tensor) -> Tensor:
        """A copy of the tensor."""
        return x.clone()

    def shift(self, x: Tensor, rows: int) -> Tensor:
        """The tensor itself."""
        return x


SOLO = Solo()


def gather_rows(x: Tensor, counts: Sequence[int], communicator: Communicator) -> Tensor:
    """All ranks' rows in order, (sum(counts), …); every rank's use of a row reaches its owner."""
    if communicator.world == 1:
        return x
    return _GatherRows.apply(x, tuple(counts), communicator)


def sum_ranks(x: Tensor, communicator: Communicator) -> Tensor:
    """The sum over ranks; every rank's use of it reaches every summand."""
    if communicator.world == 1:
        return x
    return _SumRanks.apply(x, communicator)


def own_rows(counts: Sequence[int], rank: int) -> slice:
    """Where the rows of `rank` stand among all."""
    start = sum(counts[:rank])
    return slice(start, start + counts[rank])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: tuple[int, ...], communicator: Communicator) -> Tensor:
        ctx.counts, ctx.communicator = counts, communicator
        return torch.cat(communicator.gather(x, counts))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = ctx.communicator.sum(gradients[0])
        return total[own_rows(ctx.counts, ctx.communicator.rank)], None, None


class _SumRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, communicator: Communicator) -> Tensor:
        ctx.communicator = communicator
        return communicator.sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.communicator.sum(gradients[0]), None

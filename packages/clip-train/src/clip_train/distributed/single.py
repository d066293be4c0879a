"""One process on one device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clip_train.distributed.communicator import Solo


class SingleBackend(Solo):
    """The plain case, and the reference for all others."""

    name = "single"
    fixed_shapes = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, towers: nn.Module) -> nn.Module:
        """The module itself."""
        return towers

    @contextmanager
    def last_backward(self, towers: nn.Module, last: bool) -> Iterator[None]:
        """Nothing to reduce."""
        yield

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing to reduce."""

    def squared_norm(self, tensors: list[Tensor]) -> Tensor:
        """Sum () of squares."""
        return total_squared_norm(tensors, self.device)

    def full(self, x: Tensor) -> Tensor:
        """The tensor itself."""
        return x.detach()

    def put(self, x: Tensor, value: Tensor) -> None:
        """Copy in place."""
        with torch.no_grad():
            x.copy_(value)

    def local(self, x: Tensor) -> Tensor:
        """The tensor itself."""
        return x

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """The flags themselves."""
        return list(flags)

    def objects(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]

    def end_step(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to leave."""


def total_squared_norm(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Sum () of squares over all elements, the larger tensors' norms taken together."""
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(tensors)).square().sum()

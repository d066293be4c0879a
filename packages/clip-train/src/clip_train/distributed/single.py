"""One process on one device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clip_train.distributed.communicator import SingleProcess


class ReplicatedParameters:
    """What backends do with parameters of which every rank holds all."""

    device: torch.device

    def squared_norm(self, tensors: list[Tensor]) -> Tensor:
        """Sum () of squares; every rank has all tensors."""
        return total_squared_norm(tensors, self.device)

    def full_tensor(self, x: Tensor) -> Tensor:
        """The tensor itself."""
        return x.detach()

    def load_full_tensor(self, x: Tensor, value: Tensor) -> None:
        """Copy in place."""
        with torch.no_grad():
            x.copy_(value)

    def local_tensor(self, x: Tensor) -> Tensor:
        """The tensor itself."""
        return x


class SingleBackend(ReplicatedParameters, SingleProcess):
    """One process on one device, and the reference for the other backends."""

    name = "single"
    needs_fixed_shapes = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, towers: nn.Module) -> nn.Module:
        """The module itself."""
        return towers

    @contextmanager
    def gradient_sync(self, towers: nn.Module, enabled: bool) -> Iterator[None]:
        """Nothing to reduce."""
        yield

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing to reduce."""

    def any_rank(self, flags: Sequence[bool]) -> list[bool]:
        """The flags themselves."""
        return list(flags)

    def all_gather_object(self, value: Any) -> list[Any]:
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

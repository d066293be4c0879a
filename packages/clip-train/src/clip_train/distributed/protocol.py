"""What losses, loop and checkpoints see of devices and processes: nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clip_train.distributed.communicator import Communicator


class BackendError(RuntimeError):
    """Processes that cannot work together, or no longer do."""


class Backend(Communicator, Protocol):
    """Device, processes, and how gradients and parameters are spread over them.

    `gather`, `sum` and `shift` of the communicator work for tensors on the CPU and on `device`.
    """

    name: str
    device: torch.device
    fixed_shapes: bool  # whether every new shape costs a compilation

    def wrap(self, towers: nn.Module) -> nn.Module:
        """The module to call; its parameters may from now on be sharded or watched."""

    def last_backward(self, towers: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward of a micro-batch: whether gradients are reduced in it."""

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every gradient, as left by the last backward, the mean over ranks."""

    def squared_norm(self, tensors: list[Tensor]) -> Tensor:
        """Sum () of squares over all elements of tensors, which may be sharded."""

    def full(self, x: Tensor) -> Tensor:
        """The whole of a parameter or of an optimizer's tensor, detached; all ranks call it."""

    def put(self, x: Tensor, value: Tensor) -> None:
        """Overwrite `x`, which may be sharded, with the whole `value`; all ranks call it."""

    def local(self, x: Tensor) -> Tensor:
        """What this rank holds of a tensor that may be sharded; it shares its memory."""

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Which of the flags are set on some rank."""

    def objects(self, value: Any) -> list[Any]:
        """The plain values of all ranks, in order."""

    def end_step(self) -> None:
        """The end of a step's work on the device."""

    def close(self) -> None:
        """Leave the other processes."""

"""All that losses, the training loop and checkpoints know of devices and processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clip_train.distributed.communicator import Communicator


class Backend(Communicator, Protocol):
    """Device, processes, and how gradients and parameters are spread over them.

    `all_gather`, `all_reduce` and `ring_shift` work for tensors on the CPU and on `device`.
    """

    name: str
    device: torch.device
    needs_fixed_shapes: bool  # whether every new shape costs a compilation

    def wrap(self, towers: nn.Module) -> nn.Module:
        """The module to call; its parameters may be sharded or have hooks from now on."""

    def gradient_sync(self, towers: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        """Around the forward and backward of a micro-batch: whether gradients are reduced in it."""

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every gradient, as left by the last backward, the mean over ranks."""

    def squared_norm(self, tensors: list[Tensor]) -> Tensor:
        """Sum () of squares over all elements of tensors, which may be sharded."""

    def full_tensor(self, x: Tensor) -> Tensor:
        """The whole of a parameter or of an optimizer's tensor, detached; all ranks call it."""

    def load_full_tensor(self, x: Tensor, value: Tensor) -> None:
        """Overwrite `x`, which may be sharded, with the whole `value`; all ranks call it."""

    def local_tensor(self, x: Tensor) -> Tensor:
        """This rank's shard of a tensor that may be sharded; it shares its memory."""

    def any_rank(self, flags: Sequence[bool]) -> list[bool]:
        """Which of the flags are set on some rank."""

    def all_gather_object(self, value: Any) -> list[Any]:
        """The values of all ranks, in order; a value is anything that JSON can hold."""

    def end_step(self) -> None:
        """The end of a step's work on the device."""

    def close(self) -> None:
        """Leave the other processes."""

"""Backends by name."""

from __future__ import annotations

import torch
from clip_models.command_line import read_launch

from clip_train.distributed.protocol import Backend
from clip_train.distributed.single import SingleBackend
from clip_train.distributed.torchrun import DDPBackend, FSDP2Backend
from clip_train.distributed.xla import XLABackend
from clip_train.errors import BackendError


def open_backend(name: str, device: torch.device | None, *, timeout_s: float) -> Backend:
    """The backend of that name; `auto` is DDP under torchrun and one process otherwise.

    Args:
        name: `auto`, `single`, `ddp`, `fsdp2` or `xla`.
        device: Where to compute; None for XLA, which chooses its device.
        timeout_s: Seconds that a process waits for the others before it gives up.

    Raises:
        BackendError: It cannot be used here.
        LaunchError: What torchrun says in the environment cannot be.
    """
    world_size = read_launch().world_size
    if name == "auto":
        name = "ddp" if world_size > 1 else "single"
    if name == "xla":
        return XLABackend()
    assert device is not None
    if name == "single":
        if world_size > 1:
            raise BackendError(
                f"train.backend is 'single', but torchrun started {world_size} processes; "
                "use 'ddp' or 'fsdp2', or start one process"
            )
        return SingleBackend(device)
    return (DDPBackend if name == "ddp" else FSDP2Backend)(device, timeout_s=timeout_s)

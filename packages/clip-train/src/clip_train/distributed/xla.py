"""XLA devices through torch_xla: one process, every shape compiled once."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from clip_train.distributed.single import SingleBackend
from clip_train.errors import BackendError


class XLABackend(SingleBackend):
    """One process on one XLA device, which traces a step and compiles it once for each shape."""

    name = "xla"
    needs_fixed_shapes = True

    def __init__(self) -> None:
        try:
            self._xla: Any = importlib.import_module("torch_xla")
            runtime: Any = importlib.import_module("torch_xla.runtime")
        except ImportError:
            raise BackendError(
                "train.backend 'xla' needs torch_xla, with a torch of the same release: "
                "`pip install torch==2.9.0 torch_xla==2.9.0`"
            ) from None
        if runtime.world_size() != 1:
            raise BackendError(
                f"train.backend 'xla' runs one process, and there are {runtime.world_size()}; "
                "give the process one device"
            )
        super().__init__(self._xla.device())

    def squared_norm(self, tensors: list[Tensor]) -> Tensor:
        """Sum () of squares, in operations that XLA traces."""
        return torch.stack([x.square().sum() for x in tensors]).sum()

    def end_step(self) -> None:
        """Run what was traced since the last step as one program."""
        self._xla.sync()

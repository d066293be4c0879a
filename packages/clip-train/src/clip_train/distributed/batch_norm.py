"""Batch normalization over the batch of all ranks. B of this rank, C channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clip_train.distributed.communicator import Communicator, all_reduce_sum


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of all ranks' batches together.

    Its gradients are exact on every device and, unlike torch's SyncBatchNorm, it needs no GPU;
    the names and shapes of its state are those of BatchNorm2d.
    """

    communicator: Communicator

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, …)."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        count = all_reduce_sum(wide.new_tensor(float(x.numel() // x.shape[1])), self.communicator)
        mean = all_reduce_sum(wide.sum(axes), self.communicator) / count  # (C,)
        centered = wide - mean.view(shape)
        variance = all_reduce_sum(centered.square().sum(axes), self.communicator) / count  # (C,)
        self._update_running_statistics(mean.detach(), (variance * count / (count - 1)).detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)  # (C,)
        return (centered * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics as BatchNorm2d does."""
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


def trains_batch_norm(model: nn.Module) -> bool:
    """Whether a layer uses the statistics of the batch in training."""
    found = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return any(any(p.requires_grad for p in layer.parameters()) for layer in found)


def synchronize_norms(model: nn.Module, communicator: Communicator) -> None:
    """Replace BatchNorm2d layers in place; with one rank nothing changes."""
    if communicator.world_size == 1:
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.BatchNorm2d:
                setattr(parent, name, _synchronize(layer, communicator))


def _synchronize(layer: nn.BatchNorm2d, communicator: Communicator) -> nn.Module:
    state: dict[str, Any] = layer.__dict__
    replacement = SynchronizedBatchNorm(layer.num_features)
    replacement.__dict__.update(state)
    replacement.communicator = communicator
    return replacement

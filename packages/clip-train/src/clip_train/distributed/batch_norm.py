"""Batch normalisation over the batch of all ranks.  B of this rank, C channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clip_train.distributed.communicator import Communicator, sum_ranks


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of all ranks' batches together.

    Its gradients are exact on every device, unlike torch's SyncBatchNorm it does not need a GPU;
    names and values of its state are BatchNorm2d's.
    """

    communicator: Communicator

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, …)."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        count = sum_ranks(wide.new_tensor(float(x.numel() // x.shape[1])), self.communicator)
        mean = sum_ranks(wide.sum(axes), self.communicator) / count  # (C,)
        centred = wide - mean.view(shape)
        variance = sum_ranks(centred.square().sum(axes), self.communicator) / count  # (C,)
        self._follow(mean.detach(), (variance * count / (count - 1)).detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)  # (C,)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as BatchNorm2d does."""
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


def synchronise_norms(model: nn.Module, communicator: Communicator) -> None:
    """Replace BatchNorm2d layers in place, if there are other ranks to agree with."""
    if communicator.world == 1:
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.BatchNorm2d:
                setattr(parent, name, _synchronised(layer, communicator))


def _synchronised(layer: nn.BatchNorm2d, communicator: Communicator) -> nn.Module:
    state: dict[str, Any] = layer.__dict__
    replacement = SynchronisedBatchNorm(layer.num_features)
    replacement.__dict__.update(state)
    replacement.communicator = communicator
    return replacement

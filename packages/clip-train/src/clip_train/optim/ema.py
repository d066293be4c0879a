"""An exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """EMA of a model: `value = decay * value + (1 - decay) * weight` of every parameter.

    It starts at the current weights. Sharded parameters have sharded averages.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(model.named_parameters())
        self.values: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Include the current weights."""
        for name, parameter in self.parameters.items():
            self.values[name].mul_(self.decay).add_(parameter.detach(), alpha=1 - self.decay)

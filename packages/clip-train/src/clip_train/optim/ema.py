"""An exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """`average = decay * average + (1 - decay) * weight` of every parameter, each step.

    It starts at the weights it is made with.  Sharded parameters have sharded averages.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(model.named_parameters())
        self.values: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        for name, parameter in self.parameters.items():
            self.values[name].mul_(self.decay).add_(parameter.detach(), alpha=1 - self.decay)

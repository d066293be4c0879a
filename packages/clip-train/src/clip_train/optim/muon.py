"""Muon for convolutions: orthogonalized momentum, filters of a fixed norm.

m output channels, n = input channels times positions of a filter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration whose slope at zero is as large as its convergence permits."""


def orthogonalize(matrix: Tensor, steps: int) -> Tensor:
    """A matrix (m, n) of the same singular vectors whose singular values are near one.

    Newton and Schulz's iteration with Jordan's coefficients (2024, "Muon"): after five steps the
    singular values are in about 0.7 … 1.2, after fewer the small ones remain smaller. A matrix of
    zeros stays zero.

    Args:
        matrix: (m, n).
        steps: Number of iterations.
    """
    a, b, c = _COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x


class ConvolutionMuon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for filters (m, ·, ·, ·), each seen as a matrix (m, n).

    With `keep_norm` a layer's filters are scaled to a norm of sqrt(m) before every update, so that
    the rate alone says how far they turn, and there is no weight decay (Jordan 2024, airbench).
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.6,
        steps: int = 3,
        keep_norm: bool = True,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "steps": steps, "keep_norm": keep_norm}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the filters that have a gradient."""
        assert closure is None, "the loss is not evaluated again"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"]
                buffer.mul_(group["momentum"]).add_(parameter.grad)
                direction = parameter.grad.add(buffer, alpha=group["momentum"])
                if group["keep_norm"]:
                    parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
                update = orthogonalize(direction.flatten(1), group["steps"])
                parameter.add_(update.view(parameter.shape), alpha=-group["lr"])

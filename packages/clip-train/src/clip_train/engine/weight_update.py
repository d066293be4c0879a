"""From gradients to new weights: unscale, clip, update."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip_train.checkpoints.training_state import TrainingState

MAX_LOG_LOGIT_SCALE = 4.605170185988092  # ln 100, as in Radford et al. 2021


def clip_gradients(state: TrainingState, *, max_norm: float | None) -> Tensor:
    """Undo the loss scale and clip the model's gradient to `max_norm`; its norm () before.

    Norm and clipping are of the model alone; where a learned augmentation's gradient is not finite,
    the norm is not either.
    """
    backend = state.backend
    scale = 1.0 if state.loss_scale is None else state.loss_scale.value
    gradients = _gradients(state.model)
    norm = backend.squared_norm(gradients).sqrt() / scale
    if state.augmentation is not None:
        others = _gradients(state.augmentation)
        for gradient in others:
            gradient.div_(scale)
        norm = norm + 0 * backend.squared_norm(others)
    if max_norm is not None or scale != 1:
        clip = 1.0 if max_norm is None else (max_norm / (norm + 1e-6)).clamp(max=1.0)
        factor = torch.as_tensor(clip / scale, device=norm.device)
        torch._foreach_mul_([backend.local_tensor(x) for x in gradients], factor)
    return norm


def update_weights(state: TrainingState, norm: Tensor) -> None:
    """One step of the optimizers and of the EMA; with a loss scale, only if `norm` is finite."""
    if state.loss_scale is not None:
        finite = bool(norm.isfinite())
        state.loss_scale.update(finite=finite)
        if not finite:
            return
    state.optimizers.step()
    with torch.no_grad():
        state.model.logit_scale.clamp_(max=MAX_LOG_LOGIT_SCALE)
    if state.ema is not None:
        state.ema.update()


def _gradients(module: nn.Module) -> list[Tensor]:
    """Those of a module's parameters that have one."""
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]

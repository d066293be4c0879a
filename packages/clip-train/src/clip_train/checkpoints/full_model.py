"""The model that a run evaluates and exports: unsharded, with EMA weights if there are any."""

from __future__ import annotations

import torch
from clip_models import CLIP

from clip_train.checkpoints.state import TrainingState


def full_model(state: TrainingState) -> CLIP:
    """The trained model if it is neither sharded nor averaged, else a copy; all ranks call it."""
    backend = state.backend
    if state.ema is None and backend.name in ("single", "ddp"):
        return state.model
    with torch.device("meta"):
        copy = CLIP(state.model.config)
    tensors = dict(state.model.state_dict())
    if state.ema is not None:
        tensors |= state.ema.values
    device = torch.device("cpu") if backend.needs_fixed_shapes else backend.device
    full = {name: backend.full_tensor(x).to(device, copy=True) for name, x in tensors.items()}
    copy.load_state_dict(full, assign=True)
    return copy.eval()

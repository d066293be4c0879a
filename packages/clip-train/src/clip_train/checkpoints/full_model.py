"""The model to evaluate and to leave behind: whole, on this rank, averaged if weights are."""

from __future__ import annotations

import torch
from clip_models import CLIP

from clip_train.checkpoints.state import TrainingState


def whole_model(state: TrainingState) -> CLIP:
    """The model itself where that is it, else a copy; all ranks call it together."""
    backend = state.backend
    if state.average is None and backend.name in ("single", "ddp"):
        return state.model
    with torch.device("meta"):
        copy = CLIP(state.model.config)
    tensors = dict(state.model.state_dict())
    if state.average is not None:
        tensors |= state.average.values
    device = torch.device("cpu") if backend.fixed_shapes else backend.device
    whole = {name: backend.full(tensor).to(device, copy=True) for name, tensor in tensors.items()}
    copy.load_state_dict(whole, assign=True)
    return copy.eval()

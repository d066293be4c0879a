"""Model and optimizer of a run on disk: a checkpoint that training continues from."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from dtp_pooling.checkpoint_files import (
    checkpoint_step,
    keep_last,
    read_checkpoint,
    write_checkpoint,
)
from dtp_pooling.language_model.model import DynamicPoolingLM
from dtp_pooling.training.run_directory import (
    CHECKPOINTS_NAME,
    EARLIER_LAYOUT,
    find_checkpoint,
)


def save_training_state(
    directory: Path, step: int, model: DynamicPoolingLM, optimizer: torch.optim.Adam, keep: int
) -> None:
    """Write the checkpoint of a step into a run, and delete all but the newest `keep`.

    Raises:
        OSError: It could not be written; earlier checkpoints are as they were.
    """
    names: dict[Tensor, str] = {tensor: name for name, tensor in model.named_parameters()}
    tensors = {
        "model": model.state_dict(),
        "optimizer": {
            f"{names[parameter]}.{key}": value
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        },
    }
    write_checkpoint(directory / CHECKPOINTS_NAME, step, tensors, {}, model.save_config)
    keep_last(directory / CHECKPOINTS_NAME, keep)


def load_training_state(
    directory: Path, model: DynamicPoolingLM, optimizer: torch.optim.Adam
) -> int:
    """Put the newest checkpoint's tensors into model and optimizer; its step, or 0 without one.

    Raises:
        ValueError: A file is damaged, or does not fit the model.
    """
    newest = find_checkpoint(directory)
    if newest is None:
        return 0
    if newest.name in EARLIER_LAYOUT:
        return _load_earlier_layout(newest, model, optimizer)
    tensors, _ = read_checkpoint(newest)
    places = {name: place for place, (name, _) in enumerate(model.named_parameters())}
    moments: dict[int, dict[str, Tensor]] = {}
    state = optimizer.state_dict() | {"state": moments}
    try:
        model.load_state_dict(tensors["model"])
        for key, value in tensors["optimizer"].items():
            name, _, part = key.rpartition(".")
            moments.setdefault(places[name], {})[part] = value
        optimizer.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{newest} does not fit the model of {directory}: {error}") from error
    return checkpoint_step(newest)


def _load_earlier_layout(place: Path, model: DynamicPoolingLM, optimizer: torch.optim.Adam) -> int:
    model.load_state_dict(DynamicPoolingLM.load(place).state_dict())
    path = place / "optimizer.pt"
    device = next(model.parameters()).device
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])
    except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}); delete {place} to start again"
        ) from error

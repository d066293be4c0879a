"""Model and optimizer of a run on disk: a checkpoint that training continues from."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

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

_DAMAGED = (EOFError, KeyError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError)


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
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    places = {names[parameter]: place for place, parameter in enumerate(ordered)}
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


def saved_step(place: Path) -> int:
    """The number of steps done in a checkpoint, also of the earlier layout.

    Raises:
        ValueError: It is damaged.
    """
    if place.name not in EARLIER_LAYOUT:
        return checkpoint_step(place)
    return int(_read_earlier_optimizer(place, torch.device("cpu"))["step"])


def _load_earlier_layout(place: Path, model: DynamicPoolingLM, optimizer: torch.optim.Adam) -> int:
    model.load_state_dict(DynamicPoolingLM.load(place).state_dict())
    state = _read_earlier_optimizer(place, next(model.parameters()).device)
    try:
        optimizer.load_state_dict(state["optimizer"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{place} does not fit the model: {error}") from error
    return int(state["step"])


def _read_earlier_optimizer(place: Path, device: torch.device) -> dict[str, Any]:
    path = place / "optimizer.pt"
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        return {"optimizer": state["optimizer"], "step": int(state["step"])}
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}); delete {place} to start again"
        ) from error

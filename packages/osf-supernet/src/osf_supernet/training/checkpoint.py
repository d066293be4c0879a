"""The state of a training on disk: supernet, optimizer and every rank's random states.

An earlier layout (`latest.json`, `step-N/training.pt`) is read too, and removed once a checkpoint
of this one is whole.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.optim import Optimizer

from osf_supernet.checkpoint_files import (
    CheckpointError,
    checkpoint_step,
    keep_last,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from osf_supernet.command_line import read_small_file
from osf_supernet.supernet import Supernet
from osf_supernet.training.processes import all_gather_object, rank_and_world

_POINTER = "latest.json"  # of the earlier layout


def has_checkpoint(folder: Path) -> bool:
    """Whether a training was saved there."""
    return newest_checkpoint(folder) is not None or (folder / _POINTER).is_file()


def save_checkpoint(folder: Path, step: int, net: Supernet, optimizer: Optimizer) -> None:
    """Write the checkpoint of a step, then delete earlier ones; all ranks call it.

    Raises:
        OSError: It could not be written; earlier checkpoints are as they were.
    """
    random = all_gather_object(_random_states(net.model))
    if rank_and_world()[0]:
        return
    optimizer_tensors: dict[str, Tensor] = {}
    state = {
        "depth_orders": net.depth_orders,
        "optimizer": _pack(optimizer.state_dict(), "optimizer", optimizer_tensors),
    }
    tensors = {
        "model": net.model.state_dict(),
        "optimizer": optimizer_tensors,
        "random": {f"{r}.{device}": s for r, own in enumerate(random) for device, s in own.items()},
    }
    write_checkpoint(folder, step, tensors, state)
    keep_last(folder, 1)
    _remove_earlier_layout(folder)


def load_checkpoint(folder: Path, net: Supernet, optimizer: Optimizer) -> int:
    """Put the newest checkpoint's state back; the steps that were done, 0 without a checkpoint.

    Raises:
        CheckpointError: A file is damaged.
        ValueError: The checkpoint is of another model or optimizer.
    """
    newest = newest_checkpoint(folder)
    if newest is None:
        return _load_earlier_layout(folder, net, optimizer)
    tensors, state = read_checkpoint(newest)
    try:
        net.model.load_state_dict(tensors["model"])
        optimizer.load_state_dict(_unpack(state["optimizer"], tensors["optimizer"]))
        net.depth_orders = state["depth_orders"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{newest} is of another model or optimizer: {error}") from error
    rank = f"{rank_and_world()[0]}."
    own = {name: value for name, value in tensors["random"].items() if name.startswith(rank)}
    _set_random_states({name.removeprefix(rank): value for name, value in own.items()})
    return checkpoint_step(newest)


def _random_states(model: nn.Module) -> dict[str, Tensor]:
    """Type of device → state of its generator: the CPU's, and that of the model's device."""
    others = {parameter.device.type for parameter in model.parameters()} - {"cpu"}
    states = {device: torch.get_device_module(device).get_rng_state() for device in others}
    return {"cpu": torch.get_rng_state()} | states


def _set_random_states(states: Mapping[str, Tensor]) -> None:
    for device, value in states.items():
        owner = torch if device == "cpu" else torch.get_device_module(device)
        owner.set_rng_state(value)


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A nested state as JSON: tensors are moved to `tensors` and named by their place."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        items = [[key, _pack(item, f"{name}.{key}", tensors)] for key, item in value.items()]
        return {"items": items}
    if isinstance(value, tuple | list):
        parts = [_pack(item, f"{name}.{place}", tensors) for place, item in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    return value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_pack`."""
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    return {key: _unpack(item, tensors) for key, item in content}


def _load_earlier_layout(folder: Path, net: Supernet, optimizer: Optimizer) -> int:
    pointer = folder / _POINTER
    if not pointer.exists():
        return 0
    try:
        made = folder / Path(json.loads(read_small_file(pointer))["latest"]).name
        load_model(net.model, str(made / "supernet.safetensors"))
        state = torch.load(made / "training.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        net.depth_orders = state["orders"]
    except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    rank = rank_and_world()[0]
    if rank < len(state["random"]):
        _set_random_states(state["random"][rank])
    return int(state["step"])


def _remove_earlier_layout(folder: Path) -> None:
    pointer = folder / _POINTER
    if not pointer.exists():
        return
    pointer.unlink()
    for made in folder.glob("step-*"):
        if (made / "training.pt").exists():
            shutil.rmtree(made)

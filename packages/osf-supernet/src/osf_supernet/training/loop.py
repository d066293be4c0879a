"""A small training loop with exact resume, for those who have none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.optim import Optimizer

from osf_supernet.training.processes import all_gather_object, broadcast_supernet, rank_and_world
from osf_supernet.training.sandwich import Sandwich

_STATE, _WEIGHTS = "training.pt", "supernet.safetensors"


@dataclass(frozen=True)
class Progress:
    """One finished step: its number (the first is 0) and the loss of each subnet."""

    step: int
    losses: tuple[float, ...]


def train(
    sandwich: Sandwich,
    batch_of: Callable[[int], Any],
    optimizer: Optimizer,
    steps: int,
    *,
    learning_rate: Callable[[int], float] | None = None,
    max_grad_norm: float | None = None,
    folder: str | Path | None = None,
    save_every: int = 500,
    report: Callable[[Progress], object] | None = None,
) -> None:
    """Train a supernet; from a folder that holds a checkpoint, go on where it ends.

    In a process group all ranks begin with the first one's weights, and it alone writes.

    A resumed run computes bit for bit what an uninterrupted one does, on the same machine, with
    as many ranks, and if `batch_of` is a function of the step.

    Args:
        sandwich: the supernet, its task and its sampling.
        batch_of: step → batch.
        optimizer: over the parameters of `sandwich.net.model`.
        steps: how many in all, those of earlier runs included.
        learning_rate: step → learning rate of all groups; unchanged by default.
        max_grad_norm: clips the norm of all gradients together.
        folder: where checkpoints go; none are written by default.
        save_every: steps between checkpoints; the last step is always one.
        report: called after every step.
    """
    model = sandwich.net.model
    path = None if folder is None else Path(folder)
    start = 0 if path is None else _restore(path, sandwich, optimizer)
    broadcast_supernet(sandwich.net)
    for step in range(start, steps):
        if learning_rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
        model.train()
        optimizer.zero_grad(set_to_none=False)
        losses = sandwich.backward(batch_of(step), step)
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        if report is not None:
            report(Progress(step, tuple(float(loss) for loss in losses)))
        if path is not None and ((step + 1) % save_every == 0 or step + 1 == steps):
            _save(path, sandwich, optimizer, step + 1)
    model.eval()


def _save(folder: Path, sandwich: Sandwich, optimizer: Optimizer, step: int) -> None:
    """Weights, optimizer, every rank's random states and step, renamed into place in turn."""
    random = all_gather_object(_random_states(sandwich.net.model))
    if rank_and_world()[0]:
        return
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "optimizer": optimizer.state_dict(),
        "step": step,
        "random": random,
        "orders": sandwich.net.depth_orders,
    }
    made = folder / f"step-{step}"
    made.mkdir(exist_ok=True)
    save_model(sandwich.net.model, str(made / _WEIGHTS))
    torch.save(state, made / _STATE)
    pointer = folder / "latest.json.partial"
    pointer.write_text(json.dumps({"latest": made.name}) + "\n", encoding="utf-8")
    os.replace(pointer, folder / "latest.json")
    for other in folder.glob("step-*"):
        if other.name != made.name:
            for file in (other / _WEIGHTS, other / _STATE):
                file.unlink(missing_ok=True)
            other.rmdir()


def _random_states(model: nn.Module) -> dict[str, Tensor]:
    """Type of device → state of its generator: the CPU's, and that of the model's device."""
    others = {parameter.device.type for parameter in model.parameters()} - {"cpu"}
    states = {device: torch.get_device_module(device).get_rng_state() for device in others}
    return {"cpu": torch.get_rng_state()} | states


def _restore(folder: Path, sandwich: Sandwich, optimizer: Optimizer) -> int:
    """Put a checkpoint's state back; the step to go on with."""
    pointer = folder / "latest.json"
    if not pointer.exists():
        return 0
    made = folder / str(json.loads(pointer.read_text(encoding="utf-8"))["latest"])
    load_model(sandwich.net.model, str(made / _WEIGHTS))
    state = torch.load(made / _STATE, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    rank = rank_and_world()[0]
    if rank < len(state["random"]):
        for device, value in state["random"][rank].items():
            owner = torch if device == "cpu" else torch.get_device_module(device)
            owner.set_rng_state(value)
    sandwich.net.depth_orders = state["orders"]
    return int(state["step"])

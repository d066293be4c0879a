"""A small training loop with exact resume, for those who have none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from osf_supernet.training.checkpoint import load_checkpoint, save_checkpoint
from osf_supernet.training.processes import broadcast_supernet
from osf_supernet.training.sandwich import Sandwich

_REMEDY = "the last checkpoint is as it was: continue with a lower learning rate"


class DivergenceError(RuntimeError):
    """A training whose losses or weights are no finite numbers any more."""


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
    """Train a supernet; with a folder that holds a checkpoint, continue from it.

    In a process group all ranks begin with the first one's weights, and the first one writes.

    A resumed run computes the same bits as an uninterrupted one, on the same machine, with as many
    ranks, if `batch_of` is a function of the step.

    Args:
        sandwich: the supernet, its task and its sampling.
        batch_of: step → batch.
        optimizer: over the parameters of `sandwich.net.model`.
        steps: how many in all, those of earlier runs included.
        learning_rate: step → learning rate of all groups; unchanged by default.
        max_grad_norm: clips the norm of all gradients together.
        folder: where the newest checkpoint is kept; none is written by default.
        save_every: steps between checkpoints; the last step is always one.
        report: called after every step.

    Raises:
        DivergenceError: a loss or a weight became infinite or NaN; the last checkpoint stays.
    """
    path = None if folder is None else Path(folder)
    start = 0 if path is None else load_checkpoint(path, sandwich.net, optimizer)
    broadcast_supernet(sandwich.net)
    for step in range(start, steps):
        if learning_rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
        losses = _step(sandwich, batch_of(step), optimizer, step, max_grad_norm)
        if report is not None:
            report(Progress(step, tuple(float(loss) for loss in losses)))
        due = (step + 1) % save_every == 0 or step + 1 == steps
        if due:
            _require_finite_weights(sandwich.net.model, step)
        if path is not None and due:
            save_checkpoint(path, step + 1, sandwich.net, optimizer)
    sandwich.net.model.eval()


def _require_finite_weights(model: nn.Module, step: int) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DivergenceError(
                f"step {step + 1}: {name} is no longer finite; nothing was saved; {_REMEDY}"
            )


def _step(
    sandwich: Sandwich, batch: Any, optimizer: Optimizer, step: int, max_grad_norm: float | None
) -> list[Tensor]:
    """Forward, loss and backward of every subnet, clip, update; the losses."""
    model = sandwich.net.model
    model.train()
    optimizer.zero_grad(set_to_none=False)
    losses = sandwich.backward(batch, step)
    if not all(bool(torch.isfinite(loss)) for loss in losses):
        numbers = ", ".join(f"{float(loss):g}" for loss in losses)
        raise DivergenceError(f"step {step + 1}: the losses are {numbers}; {_REMEDY}")
    if max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return losses

"""Batches with or without targets, and the loss of a model on one of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.trace.tracing import call_model

Loss = Callable[..., Tensor]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def takes_targets(loss: Loss | None) -> bool:
    """Whether a loss is `loss(outputs, targets)` rather than a function of the outputs alone.

    It is where two of its arguments have no default, as in torch's own losses.
    """
    if loss is None:
        return False
    try:
        function = loss.forward if isinstance(loss, nn.Module) else loss
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return False
    needed = [p for p in parameters if p.kind in _POSITIONAL and p.default is p.empty]
    return len(needed) > 1


def inputs_of(batch: Any, loss: Loss | None) -> Any:
    """What the model is called with: a batch, or its first half where the loss takes targets."""
    return split_batch(batch)[0] if takes_targets(loss) else batch


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets.

    Raises:
        ValueError: the batch is no pair.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = type(batch).__name__
        if isinstance(batch, tuple | list):
            got += f" of {len(batch)}"
        raise ValueError(
            f"a loss(outputs, targets) needs batches (inputs, targets), got a {got}; a loss of "
            "the outputs alone takes batches of inputs"
        )
    return batch[0], batch[1]


def batch_loss(model: nn.Module, batch: Any, loss: Loss) -> Tensor:
    """The loss of a model on a batch: `loss(outputs, targets)`, or `loss(outputs)`.

    Raises:
        ValueError: the batch is no pair and the loss takes targets, or the loss is no scalar.
    """
    if takes_targets(loss):
        inputs, targets = split_batch(batch)
        value = loss(_plain_outputs(call_model(model, inputs)), targets)
    else:
        value = loss(call_model(model, batch))
    if not isinstance(value, Tensor) or value.dim():
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the loss must be a tensor of one number, got {got}")
    return value


def _plain_outputs(outputs: Any) -> Any:
    """The logits of an output object (transformers), anything else as it is."""
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    return outputs if logits is None else logits


def first_batches(batches: Iterable[Any], count: int, device: torch.device) -> list[Any]:
    """The first batches of a list, a loader or a generator, on a device."""

    def move(value: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda x: x.to(device), value)

    return [move(batch) for batch in islice(batches, count)]

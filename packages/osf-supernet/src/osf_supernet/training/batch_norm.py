"""Running statistics of batch normalisation, which subnets cannot share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from osf_supernet.tracing import split_inputs

_Norm = nn.modules.batchnorm._BatchNorm


def _norms(model: nn.Module) -> list[_Norm]:
    return [m for m in model.modules() if isinstance(m, _Norm) and m.running_mean is not None]


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Training-mode batch norms normalise by their batch and leave their running values alone."""
    norms = _norms(model)
    before = [(norm, norm.momentum, _count(norm)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.fill_(count)


def _count(norm: _Norm) -> int | None:
    return None if norm.num_batches_tracked is None else int(norm.num_batches_tracked)


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics by the averages over some batches.

    For an extracted module, or, inside `Supernet.active`, for the subnet that is active (the
    supernet's own statistics of the active channels change: see `recalibrated`).

    Args:
        model: left in the modes it was in; without batch norms nothing happens.
        batches: what the model is called with: tensors, tuples or dicts of keywords.
    """
    norms = _norms(model)
    if not norms:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    try:
        with torch.no_grad():
            for batch in batches:
                args, kwargs = split_inputs(batch)
                model(*args, **kwargs)
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, momentum in momenta:
            norm.momentum = momentum


@contextmanager
def recalibrated(model: nn.Module, batches: Iterable[Any]) -> Iterator[None]:
    """Statistics recalibrated inside the block, the previous ones back after it."""
    norms = _norms(model)
    before = [
        (buffer, buffer.clone()) for norm in norms for buffer in norm.buffers() if buffer.numel()
    ]
    try:
        recalibrate(model, batches)
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)

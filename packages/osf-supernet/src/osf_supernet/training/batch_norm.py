"""Running statistics of batch normalization, which subnets cannot share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from osf_supernet.trace.tracing import call_model

_Norm = nn.modules.batchnorm._NormBase  # batch norms, and instance norms that keep statistics
_InstanceNorm = nn.modules.instancenorm._InstanceNorm


def _norms(model: nn.Module) -> list[_Norm]:
    return [m for m in model.modules() if isinstance(m, _Norm) and m.running_mean is not None]


def has_running_statistics(model: nn.Module) -> bool:
    """Whether a model has norms whose statistics a subnet must have of its own."""
    return bool(_norms(model))


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms in training mode do not change their running statistics inside the block."""
    norms = _norms(model)
    momenta = [(norm, norm.momentum) for norm in norms]
    counters = [c for norm in norms if (c := norm.num_batches_tracked) is not None]
    counts = [(counter, counter.clone()) for counter in counters]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
        _put_back(counts)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use the statistics of each batch inside the block, and keep their own."""
    norms = _norms(model)
    modes = [(norm, norm.training) for norm in norms]
    with frozen_statistics(model):
        for norm in norms:
            norm.train()
        try:
            yield
        finally:
            for norm, mode in modes:
                norm.training = mode


def recalibrate(model: nn.Module, batches: Collection[Any]) -> None:
    """Replace the running statistics by the averages over some batches.

    For an extracted module, or, inside `Supernet.active`, for the subnet that is active (the
    supernet's own statistics of the active channels change: see `recalibrated`).

    Args:
        model: left in the modes it was in; without batch norms nothing happens.
        batches: what the model is called with: tensors, tuples or dicts of keywords.

    Raises:
        ValueError: there is no batch, and there are statistics to replace.
        TypeError: the batches can be gone through only once.
    """
    norms = _norms(model)
    if not norms:
        return
    _check(batches)
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in norms]
    before = _statistics(norms)
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    try:
        _average_statistics(model, norms, batches)
    except BaseException:
        _put_back(before)
        raise
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, momentum in momenta:
            norm.momentum = momentum


@torch.no_grad()
def _average_statistics(model: nn.Module, norms: list[_Norm], batches: Collection[Any]) -> None:
    for index, batch in enumerate(batches):
        for norm in norms:
            if isinstance(norm, _InstanceNorm):  # takes None for zero
                norm.momentum = 1 / (index + 1)
        call_model(model, batch)


def _check(batches: Collection[Any]) -> None:
    """Refuse no batches and iterators, which would leave the statistics reset."""
    if isinstance(batches, Iterator):
        raise TypeError(
            "recalibration needs a list of batches, got an iterator; pass list(...) of it"
        )
    if not len(batches):
        raise ValueError(
            "recalibration needs at least one batch, got none: the running statistics would be lost"
        )


def _statistics(norms: list[_Norm]) -> list[tuple[Tensor, Tensor]]:
    """Buffers and what they hold."""
    return [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]


def _put_back(statistics: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in statistics:
        buffer.copy_(value)


@contextmanager
def recalibrated(model: nn.Module, batches: Collection[Any]) -> Iterator[None]:
    """Statistics recalibrated inside the block, the previous ones back after it."""
    before = _statistics(_norms(model))
    recalibrate(model, batches)
    try:
        yield
    finally:
        _put_back(before)

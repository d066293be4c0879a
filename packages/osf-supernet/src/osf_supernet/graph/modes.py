"""Operators of a graph that depend on whether its module trains: batch norm and dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def run_batch_norm(
    owner: nn.Module,
    path: str,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    eps: float,
) -> Tensor:
    """What the batch norm at a path of a module does, by its mode and its momentum."""
    norm: Any = owner.get_submodule(path)
    factor = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            factor = 1.0 / float(norm.num_batches_tracked)
    own = not norm.training or norm.track_running_stats
    statistics = (mean, variance) if own else (None, None)
    return F.batch_norm(x, *statistics, weight, bias, norm.training, factor, eps)


def run_dropout(owner: nn.Module, name: str, x: Tensor, p: float) -> Tensor:
    """Dropout of some kind, while the module trains."""
    function = {
        "dropout": torch.dropout,
        "feature_dropout": torch.feature_dropout,
        "alpha_dropout": torch.alpha_dropout,
    }[name]
    return function(x, p, owner.training)

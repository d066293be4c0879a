"""Inputs of other shapes, for verification: a larger batch, shorter texts, other image sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from osf_supernet.trace.tracing import Inputs, split_inputs


def larger_batch(inputs: Inputs | Tensor) -> Any:
    """The inputs with their first sample repeated, or None where no batch axis is shared."""
    return _map_tensors(inputs, lambda x: torch.cat([x, x[:1]])) if _samples(inputs) else None


def one_sample(inputs: Inputs | Tensor) -> Any:
    """The first of several samples, or None where no batch axis is shared."""
    return _map_tensors(inputs, lambda x: x[:1]) if _samples(inputs) > 1 else None


def _samples(inputs: Inputs | Tensor) -> int:
    """The first dimension that all tensors share, or 0."""
    leaves = pytree.tree_flatten(split_inputs(inputs))[0]
    found = {x.shape[0] if x.dim() else 0 for x in leaves if isinstance(x, Tensor)}
    return found.pop() if len(found) == 1 else 0


def other_lengths(inputs: Inputs | Tensor) -> Iterator[Any]:
    """Texts (integers or masks (B, T)) and sequences (B, T, D) cut to about two thirds, or half."""

    def cut(numerator: int, denominator: int, x: Tensor) -> Tensor:
        text = x.dim() == 2 and not x.is_floating_point()
        if (text or x.dim() == 3) and x.shape[1] > 1:
            return x[:, : max(1, x.shape[1] * numerator // denominator)]
        return x

    return _changed(inputs, partial(cut, 2, 3), partial(cut, 1, 2))


def other_images(inputs: Inputs | Tensor) -> Iterator[Any]:
    """Images (B, C, H, W) of half and of double the sides."""

    def resize(factor: float, x: Tensor) -> Tensor:
        if x.dim() == 4 and x.is_floating_point() and min(x.shape[2:]) > 1:
            return F.interpolate(x, scale_factor=factor)
        return x

    return _changed(inputs, partial(resize, 0.5), partial(resize, 2.0))


def _changed(inputs: Any, *changes: Callable[[Tensor], Tensor]) -> Iterator[Any]:
    """The inputs after each of the changes that has an effect on a shape."""
    leaves = [x for x in pytree.tree_leaves(split_inputs(inputs)) if isinstance(x, Tensor)]
    for change in changes:
        if any(change(x).shape != x.shape for x in leaves):
            yield _map_tensors(inputs, change)


def _map_tensors(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The inputs, in the form they were given, with every tensor changed."""
    return pytree.tree_map_only(Tensor, change, inputs)

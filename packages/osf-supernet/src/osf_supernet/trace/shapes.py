"""Inputs of other shapes, for verification: a larger batch, shorter texts, other image sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    for numerator, denominator in ((2, 3), (1, 2)):

        def cut(x: Tensor, share: tuple[int, int] = (numerator, denominator)) -> Tensor:
            text = x.dim() == 2 and not x.is_floating_point()
            if (text or x.dim() == 3) and x.shape[1] > 1:
                return x[:, : max(1, x.shape[1] * share[0] // share[1])]
            return x

        if _has_effect(inputs, cut):
            yield _map_tensors(inputs, cut)


def other_images(inputs: Inputs | Tensor) -> Iterator[Any]:
    """Images (B, C, H, W) of half and of double the sides."""
    for factor in (0.5, 2.0):

        def resize(x: Tensor, factor: float = factor) -> Tensor:
            if x.dim() == 4 and x.is_floating_point() and min(x.shape[2:]) > 1:
                return F.interpolate(x, scale_factor=factor)
            return x

        if _has_effect(inputs, resize):
            yield _map_tensors(inputs, resize)


def _has_effect(inputs: Any, change: Callable[[Tensor], Tensor]) -> bool:
    leaves = pytree.tree_flatten(split_inputs(inputs))[0]
    return any(isinstance(x, Tensor) and change(x).shape != x.shape for x in leaves)


def _map_tensors(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The inputs, in the form they were given, with every tensor changed."""
    return pytree.tree_map_only(Tensor, change, inputs)

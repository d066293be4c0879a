"""Honest parameter counts: every stored number once, whatever names point to it."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor, nn


def count_parameters(module: nn.Module, *, trainable_only: bool = False) -> int:
    """The number of parameters of a module, tied ones once.

    Biases, embeddings and bare parameters count as much as weights. Two parameters that are
    the same view of the same storage are one; inside `active` the slices count, not the
    tensors they are cut from.

    Args:
        module: any module.
        trainable_only: leave out what does not require a gradient.
    """
    seen: dict[Hashable, int] = {}
    for parameter in module.parameters():
        if parameter.requires_grad or not trainable_only:
            seen[storage_key(parameter)] = parameter.numel()
    return sum(seen.values())


def storage_key(tensor: Tensor) -> Hashable:
    """A key that is equal for two names of one tensor: device, address, shape and strides."""
    if tensor.is_meta or tensor.numel() == 0:  # no address to compare
        return id(tensor)
    return str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride())

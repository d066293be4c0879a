"""Uniform numbers as a hash of a row's key and their place. B rows, N numbers of each.

The hash is the finalizer of SplitMix64 (Steele, Lea and Flood 2014) over a Weyl sequence, in
wrapping int64 arithmetic: the numbers of a row do not depend on its batch, are the same on every
device, and one can be computed without those before it. clip-models and dtp-pooling, which know no
sibling, hold this file each, word for word; a test of the repository compares them.
"""

from __future__ import annotations

import torch
from torch import Tensor

WEYL = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def hashed_uniform(keys: Tensor, count: int, *, start: int | Tensor = 0) -> Tensor:
    """(B, N) float32 in the open interval (0, 1): numbers `start`, `start + 1`, … of each key.

    Args:
        keys: (B,) int64, all of whose bits matter.
        count: N.
        start: Place of the first number, one for all rows or (B,) int64.
    """
    places = torch.arange(1, count + 1, device=keys.device)
    if isinstance(start, Tensor):
        places = start.to(keys.device).reshape(-1, 1) + places
    elif start:
        places = places + start
    bits = _shift(mix(keys[:, None] + places * WEYL), 41)  # 23 bits: adding a half is exact
    return (bits.float() + 0.5) * 2.0**-23


def mix(x: Tensor) -> Tensor:
    """A bijection of int64 in which every bit of the input changes half the bits of the output."""
    x = (x ^ _shift(x, 30)) * MIX_1
    x = (x ^ _shift(x, 27)) * MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; the sign bit is shifted separately, because XLA divides to shift."""
    return ((x & (2**63 - 1)) >> bits) + (x < 0).long() * (1 << (63 - bits))

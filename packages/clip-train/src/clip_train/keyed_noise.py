"""Random numbers on the device that belong to a sample.  B samples, N numbers of each.

The number at place n of a sample is a hash (finaliser of SplitMix64, Steele et al. 2014) of the
sample's key and n, in wrapping int64 arithmetic: it depends on no other sample, on no batch size,
and is the same on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WEYL = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def uniform(keys: Tensor, count: int, *, start: int = 0) -> Tensor:
    """(B, count) float32 in the open interval (0, 1); numbers `start`, `start + 1`, … of each key.

    Args:
        keys: (B,) int64.
        count: N.
        start: Place of the first number.
    """
    places = torch.arange(start + 1, start + count + 1, device=keys.device)
    words = _mix(keys[:, None] + places * _WEYL)
    return (_logical_shift(words, 41).float() + 0.5) * 2.0**-23


def normal(keys: Tensor, count: int, *, start: int = 0) -> Tensor:
    """(B, count) float32 standard normal, by Box and Muller (1958) from `uniform`.

    Uses numbers `start` to `start + 2 * ceil(count / 2) - 1` of each key.
    """
    half = (count + 1) // 2
    radius, angle = uniform(keys, 2 * half, start=start).chunk(2, dim=1)  # (B, N/2) each
    radius = (-2 * radius.log()).sqrt()
    angle = angle * (2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


def _mix(words: Tensor) -> Tensor:
    words = (words ^ _logical_shift(words, 30)) * _MIX_1
    words = (words ^ _logical_shift(words, 27)) * _MIX_2
    return words ^ _logical_shift(words, 31)


def _logical_shift(words: Tensor, bits: int) -> Tensor:
    """Shift right filling with zeros, which int64's own shift does not."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)

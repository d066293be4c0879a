"""Random numbers on the device that belong to a sample.  B samples, N numbers of each.

They are a hash of the sample's key and their place (`clip_models.hashed_uniform`): they depend on
no other sample, on no batch size, and the uniform ones are the same on every device.
"""

from __future__ import annotations

import math

import torch
from clip_models.pooling import hashed_uniform as uniform
from torch import Tensor

__all__ = ["normal", "uniform"]


def normal(keys: Tensor, count: int, *, start: int = 0) -> Tensor:
    """(B, count) float32 standard normal, by Box and Muller (1958) from `uniform`.

    Uses numbers `start` to `start + 2 * ceil(count / 2) - 1` of each key.
    """
    half = (count + 1) // 2
    radius, angle = uniform(keys, 2 * half, start=start).chunk(2, dim=1)  # (B, N/2) each
    radius = (-2 * radius.log()).sqrt()
    angle = angle * (2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]

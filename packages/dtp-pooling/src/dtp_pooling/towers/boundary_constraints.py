"""Where segments of a tower's tokens must end and may end.

B batch, L tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Count = TypeVar("Count", int, Tensor)
_ONE = 2**32


class BoundaryConstraints(NamedTuple):
    """Limits on boundaries, each (B, L) bool, in the order of the sequence."""

    poolable: Tensor  # real tokens that may share a segment
    forced: Tensor  # a segment must end here
    candidates: Tensor  # a segment may end here


def find_constraints(apart: Tensor, lengths: Tensor | None) -> BoundaryConstraints:
    """Constraints by tokens (B, L) that stay segments of one token and by lengths (B,)."""
    real = torch.ones_like(apart)
    if lengths is not None:
        real = torch.arange(apart.shape[1], device=apart.device) < lengths[:, None]
    apart = apart & real
    poolable = real & ~apart
    last = torch.zeros_like(poolable[:, :1])
    follows = torch.cat([poolable[:, 1:], last], dim=1)  # the next token is poolable too
    return BoundaryConstraints(poolable, real & (apart | ~follows), poolable & follows)


def count_segments(tokens: Count, rate: float) -> Count:
    """round(rate * tokens), halves up: the same for an int and an int64 tensor of any shape.

    In whole numbers, because a product such as 0.65 * 90 rounds to either side of its half.
    """
    return (tokens * _to_fixed_point(rate) + _ONE // 2) // _ONE


def _to_fixed_point(rate: float) -> int:
    """The rate in units of 2**-32, up, which keeps products that are whole numbers whole."""
    return math.ceil(rate * _ONE)


def count_free_boundaries(constraints: BoundaryConstraints, rate: float) -> Tensor:
    """(B,) boundaries to choose among the candidates: round(rate * poolable) segments in all."""
    poolable, candidates = constraints.poolable.sum(1), constraints.candidates.sum(1)
    stretches = poolable - candidates  # each ends by force
    return (count_segments(poolable, rate) - stretches).clamp(min=0)


def even_boundaries(poolable: Tensor, rate: float, causal: bool) -> Tensor:
    """(B, L) boundaries at even distances, counted over poolable tokens."""
    rank = poolable.long().cumsum(1) - 1  # of each poolable token in its row
    wanted: int | Tensor = _to_fixed_point(rate)
    count: int | Tensor = _ONE
    if not causal:  # which goes by position alone
        count = poolable.sum(1, keepdim=True).clamp(min=1)
        wanted = count_segments(count, rate).clamp(min=1)
    return ((rank + 1) * wanted // count > rank * wanted // count).float()

"""Random numbers of a tower's rows.  B batch.

A row's numbers are a hash of its key and their place, so they do not depend on its batch mates: the
finaliser of SplitMix64 (Steele et al. 2014) over a Weyl sequence, in wrapping int64 arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

Randomness = torch.Generator | Tensor | None
"""Keys of the rows, int64 (B,); a generator that draws them; None is torch's global one."""

_WEYL = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def row_uniform(generator: Randomness, batch: int, count: int, device: torch.device) -> Tensor:
    """(B, count) float32 in the open interval (0, 1).

    Token poolings hash the same keys; the keys are hashed once more here, so that which patches are
    kept says nothing about how the rest is pooled.

    Raises:
        ValueError: Keys are not int64 (B,).
    """
    keys = _mix(_row_keys(generator, batch).to(device) ^ _MIX_1)  # a stream of its own
    return hashed_uniform(keys, count)


def hashed_uniform(keys: Tensor, count: int, *, start: int = 0) -> Tensor:
    """(B, count) float32 in the open interval (0, 1): numbers `start`, `start + 1`, … of each key.

    Args:
        keys: (B,) int64, all of whose bits matter.
        count: Numbers of each key.
        start: Place of the first of them.
    """
    places = torch.arange(start + 1, start + count + 1, device=keys.device) * _WEYL
    top = _shift(_mix(keys[:, None] + places), 41)  # 23 bits: adding a half is exact in float32
    return (top.float() + 0.5) * 2.0**-23


def stream(generator: Randomness, number: int) -> Randomness:
    """Keys of another stream for every `number`, 0 being the keys themselves; else as it was."""
    if number == 0 or not isinstance(generator, Tensor):
        return generator
    return _mix(generator ^ (number * _WEYL))


def _row_keys(generator: Randomness, batch: int) -> Tensor:
    if isinstance(generator, Tensor):
        if generator.shape != (batch,) or generator.dtype != torch.int64:
            raise ValueError(
                f"keys must be int64, one for each of {batch} rows, got {generator.dtype} "
                f"{tuple(generator.shape)}; torch.Tensor.view(torch.int64) keeps the bits of others"
            )
        return generator
    device = "cpu" if generator is None else generator.device
    return torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator, device=device)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64; the sign goes its own way, because XLA divides to shift."""
    return ((x & (2**63 - 1)) >> bits) + (x < 0).long() * (1 << (63 - bits))

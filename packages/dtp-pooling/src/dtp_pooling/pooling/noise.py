"""Random numbers that belong to a sample: the same whatever its batch or padding.

B batch, L tokens.

Each row has one 64-bit key, given or drawn from its generator; the numbers of its tokens are a
hash of (key, position). So a row of a longer or larger batch sees the numbers it would see alone,
and one token can be drawn without drawing those before it. The hash is the finaliser of SplitMix64
(Steele et al. 2014) applied to a Weyl sequence, in wrapping int64 arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | Tensor | None

_WEYL = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def sample_generators(seed: int, positions: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator per sample, a pure function of the seed and the sample's position.

    Args:
        seed: Whatever stands for run, epoch and purpose.
        positions: Each sample's position in the whole data, not in this batch.
    """
    keys = torch.tensor([[seed, position] for position in positions], dtype=torch.int64)
    seeds = _mix(_mix(keys[:, 0] * _WEYL) + keys[:, 1] * _WEYL) if len(keys) else keys
    return [torch.Generator().manual_seed(value) for value in seeds.tolist()]


def row_keys(batch: int, generators: Generators, device: torch.device) -> Tensor:
    """(B,) int64 key of each row, given or drawn from its own generator.

    Args:
        batch: B.
        generators: The keys themselves, int64 (B,); or one generator per row; or one for all rows,
            which then give a row a key that depends on its place in the batch; or None for torch's
            global generator.
        device: Where the keys go.
    """
    if isinstance(generators, Tensor):
        if generators.shape != (batch,) or generators.dtype != torch.int64:
            raise ValueError(
                f"keys must be int64, one per row: ({batch},), got {generators.dtype} "
                f"{tuple(generators.shape)}; view(torch.int64) keeps the bits of another type"
            )
        return generators.to(device)
    if generators is None or isinstance(generators, torch.Generator):
        return _draw(batch, generators).to(device)
    if len(generators) != batch:
        raise ValueError(
            f"expected one generator per row, {batch}, got {len(generators)}; "
            "sample_generators(seed, positions) makes them"
        )
    return torch.cat([_draw(1, generator) for generator in generators]).to(device)


def uniform(keys: Tensor, length: int, offset: int | Tensor = 0) -> Tensor:
    """(B, L) float32 in the open interval (0, 1), token t of row b hashed from (key_b, t).

    Args:
        keys: (B,) int64.
        length: L.
        offset: Position of the first token, one for all rows or (B,).
    """
    position = torch.arange(length, device=keys.device)
    start = torch.as_tensor(offset, device=keys.device).reshape(-1, 1)
    mixed = _mix(keys[:, None] + (start + position + 1) * _WEYL)  # (B, L)
    bits = _shift(mixed, 41)  # the top 23, so that adding a half is exact in float32
    return (bits.float() + 0.5) * 2.0**-23


def logistic(keys: Tensor, length: int, offset: int | Tensor = 0) -> Tensor:
    """(B, L) float32 logistic noise, the difference of two Gumbels; at most 16.7 in size."""
    u = uniform(keys, length, offset)
    return u.log() - (1 - u).log()


def _draw(count: int, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    low, high = -(2**63), 2**63 - 1
    return torch.randint(low, high, (count,), generator=generator, device=device)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64; the sign goes its own way, because XLA divides to shift."""
    return ((x & (2**63 - 1)) >> bits) + (x < 0).long() * (1 << (63 - bits))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)

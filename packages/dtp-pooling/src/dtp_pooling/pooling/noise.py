"""Random numbers of a sample, the same whatever its batch or padding. B batch.

Each row has one 64-bit key, given or drawn from its generator; `hashed_uniform` makes the numbers
of its tokens from the key and their positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dtp_pooling.pooling.splitmix64 import WEYL, mix

Generators = torch.Generator | Sequence[torch.Generator] | Tensor | None


def sample_generators(seed: int, positions: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator per sample, a pure function of the seed and the sample's position.

    Args:
        seed: Whatever stands for run, epoch and purpose.
        positions: Each sample's position in the whole data, not in this batch.
    """
    keys = torch.tensor([[seed, position] for position in positions], dtype=torch.int64)
    seeds = mix(mix(keys[:, 0] * WEYL) + keys[:, 1] * WEYL) if len(keys) else keys
    return [torch.Generator().manual_seed(value) for value in seeds.tolist()]


def row_keys(batch: int, generators: Generators, device: torch.device) -> Tensor:
    """(B,) int64 key of each row, given or drawn from the row's generator.

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


def logistic_noise(uniform: Tensor) -> Tensor:
    """Logistic noise, the difference of two Gumbels, from numbers in the open interval (0, 1).

    Those of `hashed_uniform` give noise of at most 16.7 in size.
    """
    return uniform.log() - (1 - uniform).log()


def _draw(count: int, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    low, high = -(2**63), 2**63 - 1
    return torch.randint(low, high, (count,), generator=generator, device=device)

"""Random numbers for the rows of a batch, each independent of the other rows. B batch."""

from __future__ import annotations

import torch
from torch import Tensor

from clip_models.pooling.splitmix64 import MIX_1, WEYL, hashed_uniform, mix

Randomness = torch.Generator | Tensor | None
"""Keys of the rows, int64 (B,); a generator that draws them; None is torch's global one."""


def patch_uniform(generator: Randomness, batch: int, count: int, device: torch.device) -> Tensor:
    """(B, count) float32 in the open interval (0, 1), for patch reduction.

    The keys are hashed once more than for token pooling, so that the choice of patches is
    independent of how the rest is pooled.

    Raises:
        ValueError: Keys are not int64 (B,).
    """
    return hashed_uniform(mix(draw_row_keys(generator, batch).to(device) ^ MIX_1), count)


def pooling_uniform(
    generator: Randomness, stage: int, batch: int, count: int, device: torch.device
) -> Tensor:
    """(B, count) float32 in the open interval (0, 1), for the pooling `stage` of a tower.

    Raises:
        ValueError: Keys are not int64 (B,).
    """
    keys = draw_row_keys(generator, batch)
    if stage and isinstance(generator, Tensor):
        keys = mix(keys ^ (stage * WEYL))  # another stream for each pooling
    return hashed_uniform(keys.to(device), count)


def draw_row_keys(generator: Randomness, batch: int) -> Tensor:
    """(B,) int64 keys, given or drawn.

    Raises:
        ValueError: Keys are not int64 (B,).
    """
    if isinstance(generator, Tensor):
        if generator.shape != (batch,) or generator.dtype != torch.int64:
            raise ValueError(
                f"keys must be int64, one for each of {batch} rows, got {generator.dtype} "
                f"{tuple(generator.shape)}; Tensor.view(torch.int64) keeps the bits of other types"
            )
        return generator
    device = "cpu" if generator is None else generator.device
    return torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator, device=device)

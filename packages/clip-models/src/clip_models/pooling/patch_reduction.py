"""The patches that a step trains on. B batch, N patches, K patches kept.

Random, grid and block masks of Li et al. 2023 ("An Inverse Scaling Law for CLIP Training").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from clip_models.config.towers import PatchReductionConfig
from clip_models.pooling.randomness import Randomness, patch_uniform
from clip_models.positions import Grid


class PatchReducer(Protocol):
    """Chooses patches; applied by a gather after positions are added, in training only."""

    def keep_indices(
        self, grid: Grid, generator: Randomness, *, batch: int, device: torch.device
    ) -> Tensor:
        """(B, K) int64 places, ascending, in the row-major sequence of a (rows, columns) grid."""
        ...


class RandomPatches:
    """A random set of `keep_ratio` of the patches, at least one (Li et al. 2023, "FLIP")."""

    def __init__(self, keep_ratio: float) -> None:
        self.keep_ratio = keep_ratio

    def keep_indices(
        self, grid: Grid, generator: Randomness, *, batch: int, device: torch.device
    ) -> Tensor:
        """(B, K) with K = N * keep_ratio, rounded down."""
        patches = grid[0] * grid[1]
        keep = max(1, int(patches * self.keep_ratio))
        uniform = patch_uniform(generator, batch, patches, device)  # (B, N)
        return uniform.topk(keep, dim=1).indices.sort(dim=1).values


class GridPatches:
    """One random patch of each cell of a tiling; `keep_ratio` sets the number of cells.

    A quarter of an even grid is one patch of every window of 2 x 2, the paper's case.
    """

    def __init__(self, keep_ratio: float) -> None:
        self.keep_ratio = keep_ratio

    def keep_indices(
        self, grid: Grid, generator: Randomness, *, batch: int, device: torch.device
    ) -> Tensor:
        """(B, K) where K is the number of cells."""
        (rows, columns), (cell_rows, cell_columns) = grid, _sides(grid, self.keep_ratio)
        cells = torch.arange(cell_rows * cell_columns, device=device)  # (K,)
        uniform = patch_uniform(generator, batch, 2 * len(cells), device).view(batch, 2, len(cells))
        row = _place_in_cell(cells // cell_columns, rows, cell_rows, uniform[:, 0])
        column = _place_in_cell(cells % cell_columns, columns, cell_columns, uniform[:, 1])
        return (row * columns + column).sort(dim=1).values  # (B, K)


class BlockPatches:
    """One rectangle at a random place; its sides are the grid's times the root of `keep_ratio`."""

    def __init__(self, keep_ratio: float) -> None:
        self.keep_ratio = keep_ratio

    def keep_indices(
        self, grid: Grid, generator: Randomness, *, batch: int, device: torch.device
    ) -> Tensor:
        """(B, K) where K is the area of the rectangle."""
        (rows, columns), (height, width) = grid, _sides(grid, self.keep_ratio)
        uniform = patch_uniform(generator, batch, 2, device)  # (B, 2)
        top = (uniform[:, :1] * (rows - height + 1)).long()  # (B, 1)
        left = (uniform[:, 1:] * (columns - width + 1)).long()
        inside = torch.arange(height * width, device=device)  # (K,)
        return (top + inside // width) * columns + left + inside % width  # (B, K)


def make_patch_reducer(config: PatchReductionConfig) -> PatchReducer:
    """The reducer of a config."""
    kinds: dict[str, Callable[[float], PatchReducer]] = {
        "random": RandomPatches,
        "grid": GridPatches,
        "block": BlockPatches,
    }
    return kinds[config.kind](config.keep_ratio)


def _sides(grid: Grid, keep_ratio: float) -> Grid:
    """Both sides of the grid times the root of `keep_ratio`, rounded, at least 1."""
    rows, columns = (max(1, round(side * keep_ratio**0.5)) for side in grid)
    return rows, columns


def _place_in_cell(cell: Tensor, side: int, cells: int, uniform: Tensor) -> Tensor:
    """(B, K) a random place within each cell (K,) of a side cut into `cells` parts."""
    start, stop = cell * side // cells, (cell + 1) * side // cells
    return start + (uniform * (stop - start)).long()

from __future__ import annotations

import itertools

import pytest
import torch
from dtp_pooling.towers.token_order import grid_order

GRIDS = [(h, w) for h in range(1, 15) for w in range(1, 15)]


def steps(order: list[int], width: int) -> list[int]:
    """Manhattan distance between patches that follow each other."""
    pairs = itertools.pairwise(order)
    return [abs(a // width - b // width) + abs(a % width - b % width) for a, b in pairs]


def test_small_orders():
    assert grid_order(2, 3, "raster").tolist() == [0, 1, 2, 3, 4, 5]
    assert grid_order(3, 3, "serpentine").tolist() == [0, 1, 2, 5, 4, 3, 6, 7, 8]
    assert grid_order(2, 2, "hilbert").tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("order", ["raster", "serpentine", "hilbert"])
def test_every_patch_once(order):
    for height, width in GRIDS:
        assert sorted(grid_order(height, width, order).tolist()) == list(range(height * width))


def test_neighbors_in_the_sequence_touch():
    for height, width in GRIDS:
        assert set(steps(grid_order(height, width, "serpentine").tolist(), width)) <= {1}
        far = [d for d in steps(grid_order(height, width, "hilbert").tolist(), width) if d > 1]
        assert far in ([], [2])  # an odd side may cost one diagonal step


def test_hilbert_stretches_are_more_compact_than_rows():
    def spread(order: str) -> float:
        index = grid_order(14, 14, order).view(-1, 7)
        rows, columns = (index // 14).float(), (index % 14).float()
        return float((rows.var(1) + columns.var(1)).mean())

    assert spread("hilbert") < 0.6 * spread("serpentine")


def test_empty_grid_and_unknown_order():
    assert grid_order(0, 0, "hilbert").shape == torch.Size([0])
    with pytest.raises(ValueError, match="order must be one of"):
        grid_order(2, 2, "spiral")

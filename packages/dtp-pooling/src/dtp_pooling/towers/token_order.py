"""Orders in which the patches of an image form one sequence."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dtp_pooling.strict_config import require_one_of
from dtp_pooling.towers.config import TokenOrder


def grid_order(height: int, width: int, order: TokenOrder) -> Tensor:
    """(height * width,) raster index of the patch at each place of the sequence.

    Args:
        height: Rows of patches.
        width: Columns of patches.
        order: `raster` goes through each row from the left; `serpentine` turns around at the end
            of a row; `hilbert` is a Hilbert curve generalized to any rectangle, whose stretches
            are compact in both directions.
    """
    require_one_of("order", order, TokenOrder)
    index = torch.arange(height * width).view(height, width)
    if order == "serpentine":
        index[1::2] = index[1::2].flip(1)
    elif order == "hilbert" and index.numel():
        along, across = ((0, width), (height, 0))
        if height > width:
            along, across = across, along
        cells = list(_hilbert((0, 0), along, across))
        return torch.tensor([row * width + column for row, column in cells])
    return index.flatten()


def order_patches(apart: Tensor, order: TokenOrder, grid: tuple[int, int] | None) -> Tensor | None:
    """(L,) token at each place of the sequence; None for the order that the tokens came in.

    Args:
        apart: (B, L) bool, tokens that are no patches, the same in every row; they keep their
            places.
        order: Of the patches.
        grid: Rows and columns of patches; None for a square.
    """
    if order == "raster" or not len(apart):
        return None
    patches = (~apart[0]).nonzero().flatten()
    count = patches.numel()
    height, width = grid or (int(count**0.5), int(count**0.5))
    if height * width != count:
        raise ValueError(
            f"order={order!r} needs a grid of {height} x {width} patches, got {count}; set grid, "
            "or order='raster' when patches were dropped or pooled before"
        )
    places = torch.arange(apart.shape[1], device=apart.device)
    curve = grid_order(height, width, order).to(apart.device)
    return places.index_copy(0, patches, patches[curve])


Vector = tuple[int, int]


def _hilbert(start: Vector, along: Vector, across: Vector) -> Iterator[Vector]:
    """Cells (row, column) of the rectangle spanned by two axis-parallel vectors from `start`.

    Begins at the corner `start` and ends at the other corner of the side `along`. A rectangle is
    cut into one piece of half the width and two beside it, or in two when it is long, and each
    piece is a smaller curve; halves are kept even so that the pieces meet in neighboring cells.
    """
    length, height = abs(sum(along)), abs(sum(across))
    step, side = _unit(along), _unit(across)
    if height == 1 or length == 1:
        direction, count = (step, length) if height == 1 else (side, height)
        for i in range(count):
            yield _add(start, direction, i)
        return
    half_along, half_across = _half(along), _half(across)
    rest_along = _add(along, half_along, -1)
    if 2 * length > 3 * height:
        if abs(sum(half_along)) % 2 and length > 2:
            half_along = _add(half_along, step)
            rest_along = _add(along, half_along, -1)
        yield from _hilbert(start, half_along, across)
        yield from _hilbert(_add(start, half_along), rest_along, across)
        return
    if abs(sum(half_across)) % 2 and height > 2:
        half_across = _add(half_across, side)
    rest_across = _add(across, half_across, -1)
    yield from _hilbert(start, half_across, half_along)
    yield from _hilbert(_add(start, half_across), along, rest_across)
    corner = _add(_add(start, along), step, -1)
    corner = _add(_add(corner, half_across), side, -1)
    yield from _hilbert(corner, _scale(half_across, -1), _scale(rest_along, -1))


def _unit(vector: Vector) -> Vector:
    return ((vector[0] > 0) - (vector[0] < 0), (vector[1] > 0) - (vector[1] < 0))


def _half(vector: Vector) -> Vector:
    """Half the vector, rounded towards zero."""
    return (int(vector[0] / 2), int(vector[1] / 2))


def _add(a: Vector, b: Vector, times: int = 1) -> Vector:
    return (a[0] + times * b[0], a[1] + times * b[1])


def _scale(vector: Vector, times: int) -> Vector:
    return (times * vector[0], times * vector[1])

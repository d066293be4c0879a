"""Orders in which the patches of an image form one sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
        sides = (width * 1j, height + 0j)
        cells = _hilbert(0j, *(sides if width >= height else reversed(sides)))
        return torch.tensor([int(cell.real) * width + int(cell.imag) for cell in cells])
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


def order_rows(
    apart: Tensor,
    lengths: Tensor | None,
    order: TokenOrder,
    grids: Sequence[tuple[int, int]],
) -> Tensor | None:
    """(B, L) token at each place of each row's sequence; None for the order that they came in.

    Args:
        apart: (B, L) bool, tokens that are no patches, the same in every row.
        lengths: (B,) tokens of each row, before its padding; None for L.
        order: Of the patches.
        grids: Rows and columns of the patches of each row.
    """
    if order == "raster" or not len(apart):
        return None
    if len(grids) != len(apart):
        raise ValueError(f"grids must be one for each of {len(apart)} rows, got {len(grids)}")
    places = torch.arange(apart.shape[1], device=apart.device).repeat(len(apart), 1)
    known = [apart.shape[1]] * len(apart) if lengths is None else lengths.tolist()
    for grid in dict.fromkeys(grids):
        rows = [row for row, other in enumerate(grids) if other == grid]
        length = known[rows[0]]
        curve = order_patches(apart[rows[:1], :length], order, grid)
        assert curve is not None
        places[rows, :length] = curve
    return places


def _hilbert(start: complex, along: complex, across: complex) -> Iterator[complex]:
    """Cells, row + column i, of the rectangle spanned by two axis-parallel vectors from `start`.

    Begins at the corner `start` and ends at the other corner of the side `along`. A rectangle is
    cut into one piece of half the width and two beside it, or in two when it is long, and each
    piece is a smaller curve; halves are kept even so that the pieces meet in neighboring cells.
    """
    length, height = int(abs(along)), int(abs(across))
    step, side = along / length, across / height
    if height == 1 or length == 1:
        direction = step if height == 1 else side
        yield from (start + place * direction for place in range(length * height))
        return
    is_long = 2 * length > 3 * height
    half_along = step * _half(length, even=is_long)
    if is_long:
        yield from _hilbert(start, half_along, across)
        yield from _hilbert(start + half_along, along - half_along, across)
        return
    half_across = side * _half(height, even=True)
    yield from _hilbert(start, half_across, half_along)
    yield from _hilbert(start + half_across, along, across - half_across)
    corner = start + along - step + half_across - side
    yield from _hilbert(corner, -half_across, half_along - along)


def _half(size: int, *, even: bool) -> int:
    """Half the size rounded down, or, above 2, to an even number."""
    return size // 2 + (size // 2 % 2 if even and size > 2 else 0)

"""Position tables for other sizes. N positions, D width.

Learned tables are interpolated by small constant matrices, one for each side and pair of sizes,
which are cached: they depend on no weight, and gradients pass through them.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor, nn

Grid = tuple[int, int]


def resize_grid(
    table: Tensor, old: Grid, new: Grid, mode: Literal["bicubic", "bilinear"] = "bicubic"
) -> Tensor:
    """(rows * columns, D) of the old grid to the new one: antialiased, row-major."""
    if is_known_equal(old[0], new[0]) and is_known_equal(old[1], new[1]):
        return table
    rows = make_interpolation_matrix(old[0], new[0], mode, table)  # (rows', rows)
    columns = make_interpolation_matrix(old[1], new[1], mode, table)  # (columns', columns)
    grid = table.to(rows.dtype).view(*old, -1)  # (rows, columns, D)
    return torch.einsum("yr,rcd,xc->yxd", rows, grid, columns).flatten(0, 1).to(table.dtype)


def resize_sequence(table: Tensor, new: int) -> Tensor:
    """(N, D) to (new, D): linear along the sequence, not antialiased."""
    if is_known_equal(table.shape[0], new):
        return table
    matrix = make_interpolation_matrix(table.shape[0], new, "linear", table)
    return (matrix @ table.to(matrix.dtype)).to(table.dtype)


def is_known_equal(a: int, b: int) -> bool:
    """Whether two sizes are equal for all inputs; a graph of any size is not fixed to one by it."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False  # sizes are tensors there
    if not torch.compiler.is_compiling():
        return a == b
    # imported with every graph that is compiled or exported, and slow to import without need
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(a == b)


def make_sin_cos_table(width: int, grid: Grid, *, endpoint: bool = False) -> Tensor:
    """(rows * columns, D) float32: sine and cosine of the column, then of the row.

    MoCo v3 (Chen et al. 2021) and MAE: frequencies 10000^(-4i/D), a quarter of the width each.
    big_vision's end at 1/10000 itself: 10000^(-i/(D/4 - 1)), with `endpoint`.
    """
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64, device="cpu"),
        torch.arange(grid[1], dtype=torch.float64, device="cpu"),
        indexing="ij",
    )
    quarter = width // 4
    steps = max(1, quarter - 1) if endpoint else quarter
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64, device="cpu") / steps)
    angles = [side.reshape(-1, 1) * frequencies for side in (columns, rows)]  # 2 × (N, D/4)
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1).float()


def make_interpolation_matrix(
    old: int, new: int, mode: Literal["bicubic", "bilinear", "linear"], like: Tensor
) -> Tensor:
    """(new, old) weights of one side, on the device of `like` and in at least float32."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or type(like) not in (Tensor, nn.Parameter)
        or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        # without numbers, traced or in a function transform the matrix must not be cached
        return _matrix(old, new, mode, like.device, dtype)
    return _cached_matrix(old, new, mode, like.device, dtype)


def _matrix(old: int, new: int, mode: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Weights by torch's formulas, in operators that leave `new` open in a graph of any size."""
    target = torch.arange(new, device=device).to(dtype)[:, None]  # (new, 1)
    source = torch.arange(old, device=device).to(dtype)  # (old,)
    scale = old / torch.ones_like(target).sum()
    center = (target + 0.5) * scale - 0.5
    if mode == "linear":
        return (1 - (center.clamp(0, old - 1) - source).abs()).clamp(min=0)
    distance = (source - center).abs() / scale.clamp(min=1)
    weights = (1 - distance).clamp(min=0) if mode == "bilinear" else _cubic(distance)
    return weights / weights.sum(dim=1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """The bicubic kernel with a = -1/2 of distances, zero from 2 on (Keys 1981)."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


@functools.cache
def _cached_matrix(
    old: int, new: int, mode: str, device: torch.device, dtype: torch.dtype
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # so that it can be used in training
        return _matrix(old, new, mode, device, dtype).contiguous()

"""Confusions as a page shows them: the most frequent ones, and the whole matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_eval.report.sample_pictures import png_address
from clip_eval.results.result import Confusion, Result

MATRIX_CLASSES = 25
SHOWN = 12
HEAT_PIXELS = 500
PAPER, RIGHT_INK, WRONG_INK = (np.array(c) for c in ((238, 241, 244), (21, 128, 61), (194, 65, 12)))


class Cell(NamedTuple):
    """A cell of the matrix: images, their share of the row, and whether the answer is right."""

    n: int
    share: float
    is_hit: bool


@dataclass(frozen=True, kw_only=True)
class ConfusionView:
    """Confusions of a result.

    Attributes:
        rows: The most frequent confusions.
        matrix: The cells of a small matrix, row by row.
        heat_map: A large matrix as a picture, a `data:` address.
        classes_per_dot: Neighbouring classes that a dot of the picture stands for.
    """

    rows: Sequence[Confusion]
    matrix: Sequence[Sequence[Cell]] = ()
    heat_map: str = ""
    classes_per_dot: int = 1


def view_confusions(result: Result) -> ConfusionView | None:
    """Prepare the confusions of a result for a page; None if nothing was confused."""
    if not result.confusions:
        return None
    rows, counts = result.confusions[:SHOWN], count_confusions(result)
    if result.n_classes <= MATRIX_CLASSES:
        return ConfusionView(rows=rows, matrix=_cells(counts))
    step = -(-len(counts) // HEAT_PIXELS)  # classes per pixel, rounded up
    return ConfusionView(rows=rows, heat_map=_heat_map(counts, step), classes_per_dot=step)


def count_confusions(result: Result) -> NDArray[np.int64]:
    """Count how often each class (row) was given each answer (column), (C, C)."""
    counts = np.zeros((result.n_classes, result.n_classes), dtype=np.int64)
    for prediction in result.predictions or ():
        if prediction.guesses:
            counts[prediction.label, prediction.guesses[0]] += 1
    return counts


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def _cells(counts: NDArray[np.int64]) -> list[list[Cell]]:
    shares = _shares(counts)
    return [
        [Cell(int(n), float(shares[row, column]), row == column) for column, n in enumerate(cells)]
        for row, cells in enumerate(counts)
    ]


def _heat_map(counts: NDArray[np.int64], step: int) -> str:
    """Draw the matrix with `step` classes per pixel."""
    edges = np.arange(0, len(counts), step)
    counts = np.add.reduceat(np.add.reduceat(counts, edges, axis=0), edges, axis=1)
    strength = np.sqrt(_shares(counts))[..., None]  # so that rare confusions can be seen
    ink = np.where(np.eye(len(counts), dtype=bool)[..., None], RIGHT_INK, WRONG_INK)
    pixels = (PAPER + strength * (ink - PAPER)).round().astype(np.uint8)
    scale = max(1, HEAT_PIXELS // len(counts))
    return png_address(Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1)))

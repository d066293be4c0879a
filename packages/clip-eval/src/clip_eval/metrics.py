"""Metrics as pure functions on arrays.

Legend: N samples, C classes, K guesses per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054


def topk_accuracy(guesses: ArrayLike, labels: ArrayLike, k: int) -> float | None:
    """Share of samples whose label is among the first ``k`` guesses.

    Args:
        guesses: Class indices, best first, (N, K).
        labels: True class indices, (N,).
        k: How many guesses count.

    Returns:
        The share, or None without samples or with fewer than ``k`` guesses each.
    """
    table, truth = np.asarray(guesses), np.asarray(labels)
    if len(truth) == 0 or table.shape[1] < k:
        return None
    return float((table[:, :k] == truth[:, None]).any(axis=1).mean())


def mean_per_class_recall(correct: ArrayLike, counts: ArrayLike) -> float | None:
    """Mean over the classes that occur of the share of their samples that is right.

    Args:
        correct: Right answers per class, (C,).
        counts: Samples per class, (C,).
    """
    right, n = np.asarray(correct, dtype=float), np.asarray(counts, dtype=float)
    present = n > 0
    return float((right[present] / n[present]).mean()) if present.any() else None


def wilson_interval(correct: float, n: int, z: float = Z_95) -> tuple[float, float] | None:
    """Wilson score interval of a share ``correct / n`` (95 % by default); None without samples."""
    if n == 0:
        return None
    share = correct / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def top_confusions(
    labels: Sequence[int], predicted: Sequence[int], limit: int = 20
) -> list[tuple[int, int, int]]:
    """The most frequent mistakes as (label, predicted, how often), most frequent first."""
    truth, guess = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    wrong = (truth != guess) & (guess >= 0)
    pairs: NDArray[np.int64] = np.stack([truth[wrong], guess[wrong]], axis=1)
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:limit]
    return [(int(distinct[i, 0]), int(distinct[i, 1]), int(counts[i])) for i in order]

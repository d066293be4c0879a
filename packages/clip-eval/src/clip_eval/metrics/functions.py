"""Metrics as pure functions on arrays.

Legend: N samples, C classes, K guesses per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054


def topk_accuracy(guesses: ArrayLike, labels: ArrayLike, k: int) -> float | None:
    """Share of samples whose label is among the first `k` guesses.

    Args:
        guesses: Class indices, best first, (N, K).
        labels: True class indices, (N,).
        k: How many guesses count.

    Returns:
        The share, or None without samples or with fewer than `k` guesses each.
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


def mean_recall_interval(
    correct: ArrayLike, counts: ArrayLike, z: float = Z_95
) -> tuple[float, float] | None:
    """Interval of `mean_per_class_recall` (95 % by default): classes are independent shares.

    Each class's variance is that of Agresti and Coull's estimate (two right and two wrong answers
    added), so that a class with every answer right still has one.

    Args:
        correct: Right answers per class, (C,).
        counts: Samples per class, (C,).
    """
    right, n = np.asarray(correct, dtype=float), np.asarray(counts, dtype=float)
    right, n = right[n > 0], n[n > 0]
    if len(n) == 0:
        return None
    mean, share = float((right / n).mean()), (right + 2) / (n + 4)
    half = z * math.sqrt(float((share * (1 - share) / (n + 4)).sum())) / len(n)
    return max(0.0, mean - half), min(1.0, mean + half)


def wilson_interval(correct: float, n: float, z: float = Z_95) -> tuple[float, float] | None:
    """Wilson score interval of a share `correct / n` (95 % by default); None without samples."""
    if n == 0:
        return None
    share = correct / n
    scale = 1 + z * z / n
    center = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, center - half), min(1.0, center + half)


def grouped_share_interval(correct: ArrayLike, counts: ArrayLike) -> tuple[float, float] | None:
    """Interval of a share whose answers come in groups, such as the captions of an image.

    Wilson's at the effective number of answers: theirs by Kish's design effect (how much more the
    groups' sums vary than those of independent answers), at least the number of groups.

    Args:
        correct: Right answers per group, (G,).
        counts: Answers per group, (G,).
    """
    right, n = np.asarray(correct, dtype=float), np.asarray(counts, dtype=float)
    right, n = right[n > 0], n[n > 0]
    if len(n) == 0:
        return None
    share = float(right.sum() / n.sum())
    alone = share * (1 - share) * n.sum()
    effect = float(((right - share * n) ** 2).sum() / alone) if alone else math.inf
    effective = max(float(n.sum()) / max(1.0, effect), len(n))
    return wilson_interval(share * effective, effective)


class CalibrationBin(NamedTuple):
    """Guesses with a probability in [low, high): how many, its mean, and the share right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def calibration(
    probabilities: ArrayLike, correct: ArrayLike, bins: int = 10
) -> tuple[list[CalibrationBin], float | None]:
    """Bins of a reliability diagram, and the expected calibration error (Guo et al. 2017).

    Args:
        probabilities: Of each first guess, (N,).
        correct: Whether it is right, (N,).
        bins: Of equal width; the last one holds 1.

    Returns:
        The bins, and the mean over samples of |share right - mean probability| of their bin; None
        without samples.
    """
    said, right = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    place = np.minimum((said * bins).astype(np.int64), bins - 1)
    found, error = [], 0.0
    for number in range(bins):
        own = place == number
        n = int(own.sum())
        confidence = float(said[own].mean()) if n else 0.0
        accuracy = float(right[own].mean()) if n else 0.0
        error += n * abs(accuracy - confidence)
        found.append(CalibrationBin(number / bins, (number + 1) / bins, n, confidence, accuracy))
    return found, error / len(said) if len(said) else None


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


def average_precision(scores: ArrayLike, relevant: ArrayLike) -> float | None:
    """Mean of the precision at each relevant item of a ranking.

    Items of equal score enter the ranking together, so that their order does not matter.

    Args:
        scores: One per item, higher is ranked first, (N,).
        relevant: Whether the item is relevant, (N,).

    Returns:
        The average precision, or None if no item is relevant.
    """
    values, hits = np.asarray(scores, dtype=float), np.asarray(relevant, dtype=bool)
    if not hits.any():
        return None
    order = np.argsort(-values, kind="stable")
    values, found = values[order], np.cumsum(hits[order])
    ends = _last_of_ties(values)
    precision = found[ends] / (ends + 1)
    gained = np.diff(found[ends], prepend=0)
    return float((precision * gained).sum() / found[-1])


def _last_of_ties(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where each run of equal values ends; infinite ones are equal too."""
    return np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)


def mean_average_precision_interval(
    scores: ArrayLike, targets: ArrayLike, *, draws: int = 200, seed: int = 0
) -> tuple[float, float] | None:
    """Bootstrap 95 % interval of the mean average precision: images are drawn with replacement.

    Args:
        scores: (N, C).
        targets: 1 where the sample belongs to the class, (N, C).
        draws: How many times.
        seed: Of the draws.

    Returns:
        The middle 95 % of the draws, or None if no class has a positive.
    """
    table, truth = np.asarray(scores, dtype=float), np.asarray(targets, dtype=bool)
    present = np.flatnonzero(truth.any(axis=0))
    if len(present) == 0:
        return None
    draw = np.random.default_rng(seed)
    weights = np.stack(
        [
            np.bincount(draw.integers(0, len(table), len(table)), minlength=len(table))
            for _ in range(draws)
        ]
    )  # (draws, N) how often each image was drawn
    each = np.empty((len(present), draws))
    for row, c in enumerate(present):
        order = np.argsort(-table[:, c], kind="stable")
        drawn = weights[:, order]
        hits = drawn * truth[order, c]
        ends = _last_of_ties(table[order, c])
        last = ends[np.searchsorted(ends, np.arange(len(order)))]  # equal scores rank together
        precision = (hits.cumsum(axis=1) / np.maximum(drawn.cumsum(axis=1), 1))[:, last]
        total = hits.sum(axis=1)
        each[row] = np.where(
            total > 0, (precision * hits).sum(axis=1) / np.maximum(total, 1), np.nan
        )
    counted = np.isfinite(each).any(axis=0)
    if not counted.any():
        return None
    means = np.nanmean(each[:, counted], axis=0)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def selection_correct(scores: ArrayLike, truth: Sequence[int]) -> tuple[bool, bool]:
    """Whether every caption of a group finds its image, and every image its caption.

    A tie counts as wrong, and so does a score that is not finite: constant embeddings earn nothing.

    Args:
        scores: Similarity of image and caption, (I, T).
        truth: The caption of each image, (I,).

    Returns:
        Images found by their captions, and captions found by their images (CLIP_benchmark's
        `image_acc` and `text_acc` of one instance).
    """
    table = np.asarray(scores, dtype=float)
    if not np.isfinite(table).all():
        return False, False
    image = text = True
    for row, column in enumerate(truth):
        own = table[row, column]
        text &= int((table[row] >= own).sum()) == 1
        image &= int((table[:, column] >= own).sum()) == 1
    return image, text

"""Paired tests of two models on the same samples.

Legend: N answers, G groups of dependent answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from clip_eval.metrics.functions import wilson_interval

DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """The difference between two models, and its test.

    Attributes:
        n: Number of answers of each.
        difference: Mean of the second minus mean of the first.
        ci95: 95 % interval of the difference.
        p_value: Two-sided p-value of no difference.
        method: Name of the test.
    """

    n: int
    difference: float
    ci95: tuple[float, float]
    p_value: float
    method: str


def paired_test(first: ArrayLike, second: ArrayLike) -> PairedTest:
    """Test the difference of two lists of right (True) and wrong answers, (N,) each.

    McNemar's exact test; the interval for paired differences of Newcombe 1998, method 10.

    Raises:
        ValueError: The lists differ in length, or are empty.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"expected two lists of equal length, got {a.shape} and {b.shape}")
    both, lost, won = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    return PairedTest(
        n=len(a),
        difference=(won - lost) / len(a),
        ci95=_interval(len(a), both, lost, won),
        p_value=mcnemar(lost, won),
        method="McNemar, exact",
    )


def grouped_test(
    first: ArrayLike,
    second: ArrayLike,
    groups: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> PairedTest:
    """Test the difference of two lists of values (N,) that are dependent within groups.

    The interval is a bootstrap over groups. The p-value is that of a sign-flip permutation test
    over groups, which for right and wrong answers in groups of one is McNemar's test.

    Args:
        first: Values of the first model (N,).
        second: Values of the second model (N,).
        groups: The group of each (N,), such as the image of a caption.
        draws: Number of bootstrap samples, and of random sign flips.
        seed: Seed of the draws.

    Raises:
        ValueError: The lists differ in length, or are empty.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not a.shape == b.shape == (len(groups),) or len(a) == 0:
        raise ValueError(
            f"expected lists of equal length, got {a.shape}, {b.shape} and ({len(groups)},)"
        )
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    gain, size = np.bincount(group, weights=b - a), np.bincount(group)  # (G,)
    draw = np.random.default_rng(seed)
    means, extreme = np.empty(draws), 0
    for n in range(draws):
        drawn = draw.integers(0, len(gain), len(gain))
        means[n] = gain[drawn].sum() / size[drawn].sum()
        signs = draw.integers(0, 2, len(gain)) * 2 - 1
        extreme += bool(abs((signs * gain).sum()) >= abs(gain.sum()) - 1e-9)
    low, high = np.percentile(means, [2.5, 97.5])
    return PairedTest(
        n=len(a),
        difference=float(gain.sum() / len(a)),
        ci95=(float(low), float(high)),
        p_value=(1 + extreme) / (1 + draws),
        method=f"sign-flip permutation over {len(gain):,} images",
    )


def mcnemar(lost: int, won: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided, for `lost` and `won` flips."""
    n, least = lost + won, min(lost, won)
    if n == 0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _interval(n: int, both: int, lost: int, won: int) -> tuple[float, float]:
    """Compute Newcombe's square-and-add interval from the Wilson intervals of the two shares."""
    neither = n - both - lost - won
    first, second = (both + lost) / n, (both + won) / n
    low1, high1 = wilson_interval(both + lost, n) or (0.0, 1.0)
    low2, high2 = wilson_interval(both + won, n) or (0.0, 1.0)
    product = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    phi = 0.0
    if product:
        cross = float(both * neither - lost * won)
        cross = max(cross - n / 2, 0.0) if cross > 0 else cross
        phi = cross / math.sqrt(product)
    gap = second - first
    down = (second - low2) ** 2 + (high1 - first) ** 2
    down -= 2 * phi * (second - low2) * (high1 - first)
    up = (high2 - second) ** 2 + (first - low1) ** 2
    up -= 2 * phi * (high2 - second) * (first - low1)
    return max(-1.0, gap - math.sqrt(max(0.0, down))), min(1.0, gap + math.sqrt(max(0.0, up)))

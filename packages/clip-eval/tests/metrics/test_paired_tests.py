from __future__ import annotations

import numpy as np
import pytest
from clip_eval.metrics.paired_tests import grouped_test, mcnemar, paired_test


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 70), (700, 650)])
def test_mcnemar_is_the_binomial_test(lost: int, won: int) -> None:
    from scipy.stats import binomtest

    n = lost + won
    expected = binomtest(won, n, 0.5).pvalue if n else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(lost, won) == mcnemar(won, lost)


@pytest.mark.parametrize(
    ("both", "lost", "won", "neither", "expected"),
    # Newcombe 1998 (Statistics in Medicine 17: 2635-2650), table II, method 10; and no flip at
    # all, where it is the Wilson interval of 30 of 30
    [
        (36, 12, 2, 0, (0.0569, 0.3404)),
        (30, 0, 0, 0, (-0.1135, 0.1135)),
    ],
)
def test_the_interval_is_newcombes(
    both: int, lost: int, won: int, neither: int, expected: tuple[float, float]
) -> None:
    second = [True] * (both + lost) + [False] * (won + neither)
    first = [True] * both + [False] * lost + [True] * won + [False] * neither
    found = paired_test(first, second)
    assert found.difference == pytest.approx((lost - won) / len(first))
    assert found.ci95 == pytest.approx(expected, abs=1e-4)


def test_the_interval_covers_the_truth() -> None:
    draw = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        base = draw.random(200) < 0.6
        other = np.where(draw.random(200) < 0.2, draw.random(200) < 0.9, base)
        low, high = paired_test(base, other).ci95
        inside += low <= 0.2 * 0.3 <= high
    assert 0.92 <= inside / 400 <= 0.99


def test_lists_must_fit() -> None:
    with pytest.raises(ValueError, match="two lists of equal length"):
        paired_test([True], [True, False])
    with pytest.raises(ValueError, match="two lists of equal length"):
        paired_test([], [])
    with pytest.raises(ValueError, match="lists of equal length"):
        grouped_test([True], [True], ["a", "b"])


def test_groups_of_one_are_mcnemars() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.random(200) < 0.5, draw.random(200) < 0.6
    exact = paired_test(first, second)
    found = grouped_test(first, second, [str(n) for n in range(200)], draws=4000)
    assert found.difference == pytest.approx(exact.difference)
    assert found.p_value == pytest.approx(exact.p_value, abs=0.02)
    assert found.ci95 == pytest.approx(exact.ci95, abs=0.02)
    again = grouped_test(first, second, [str(n) for n in range(200)], draws=4000)
    assert again == found


def test_copies_of_an_answer_prove_nothing() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.random(60) < 0.5, draw.random(60) < 0.6
    names = [str(n) for n in range(60)]
    alone = grouped_test(first, second, names)
    copied = grouped_test(np.tile(first, 5), np.tile(second, 5), names * 5)
    assert copied.n == 300
    assert copied.difference == pytest.approx(alone.difference)
    assert copied.ci95 == pytest.approx(alone.ci95)
    assert copied.p_value == alone.p_value

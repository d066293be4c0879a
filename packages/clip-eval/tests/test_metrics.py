from __future__ import annotations

import numpy as np
import pytest
from clip_eval.metrics import (
    mean_per_class_recall,
    top_confusions,
    topk_accuracy,
    wilson_interval,
)
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_accuracy_and_recall_equal_scikit_learn_on_200_seeds() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        classes, n = int(rng.integers(3, 12)), int(rng.integers(1, 60))
        labels = rng.integers(0, max(2, classes - int(rng.integers(0, 3))), n)  # some are absent
        scores = rng.permutation(n * classes).reshape(n, classes).astype(float)  # no ties
        guesses = np.argsort(-scores, axis=1)[:, :5]
        for k in (1, 2, 5):
            found = topk_accuracy(guesses, labels, k)
            if k > classes:
                assert found is None
            elif k < classes:
                expected = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(classes))
                assert found == pytest.approx(expected, abs=1e-12)
            else:
                assert found == 1.0
        counts = np.bincount(labels, minlength=classes)
        right = np.bincount(labels[labels == guesses[:, 0]], minlength=classes)
        expected = balanced_accuracy_score(labels, guesses[:, 0])
        assert mean_per_class_recall(right, counts) == pytest.approx(expected, abs=1e-12)


def test_without_samples_there_is_no_number() -> None:
    assert topk_accuracy(np.zeros((0, 5)), np.zeros(0), 1) is None
    assert mean_per_class_recall([0, 0], [0, 0]) is None
    assert wilson_interval(0, 0) is None
    assert top_confusions([], []) == []


@pytest.mark.parametrize(
    ("correct", "n", "expected"),
    # Newcombe 1998, table I, method 3 (Wilson without continuity correction)
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_interval_equals_published_values(
    correct: int, n: int, expected: tuple[float, float]
) -> None:
    assert wilson_interval(correct, n) == pytest.approx(expected, abs=5e-5)


def test_confusions_are_counted_and_ordered() -> None:
    labels, guesses = [0, 0, 0, 1, 2, 2, 2], [0, 1, 1, 1, 0, 0, -1]
    assert top_confusions(labels, guesses) == [(0, 1, 2), (2, 0, 2)]
    assert top_confusions(labels, guesses, limit=1) == [(0, 1, 2)]

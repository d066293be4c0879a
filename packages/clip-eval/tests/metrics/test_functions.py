from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from clip_eval.metrics.functions import (
    average_precision,
    grouped_share_interval,
    mean_average_precision_interval,
    mean_per_class_recall,
    top_confusions,
    topk_accuracy,
    wilson_interval,
)
from clip_eval.metrics.ranking import rank_items
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    top_k_accuracy_score,
)


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


def test_average_precision_equals_scikit_learn_on_200_seeds() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 50))
        scores = rng.integers(0, 10 if seed % 2 else 10**6, n) / 7.0  # half of them with ties
        relevant = rng.random(n) < rng.random()
        found = average_precision(scores, relevant)
        if relevant.any():
            expected = average_precision_score(relevant, scores)
            assert found == pytest.approx(expected, abs=1e-12)
        else:
            assert found is None


def test_average_precision_of_equal_and_of_infinite_scores() -> None:
    truth = np.array([[1], [0], [0], [0]])
    for scores in (np.zeros((4, 1)), np.full((4, 1), -np.inf)):
        assert average_precision(scores[:, 0], truth[:, 0]) == 1 / 4
        low, high = mean_average_precision_interval(scores, truth) or (1, 0)
        assert low <= 1 / 4 <= high < 1  # whatever their order, the scores do not tell them apart


def recall_by_sorting(scores: np.ndarray, positives: list[list[int]], k: int) -> float:
    """One query at a time: sort all items, look whether a positive is among the first k."""
    hits = [
        bool(set(np.argsort(-row)[:k]) & set(own))
        for row, own in zip(scores, positives, strict=True)
    ]
    return sum(hits) / len(hits)


def test_retrieval_equals_sorting_on_200_seeds_both_ways(
    caption_retrieval: Callable[..., dict[str, float | None]],
) -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n_images = int(rng.integers(1, 12))
        owner = np.repeat(np.arange(n_images), rng.integers(1, 6, n_images)).tolist()
        images, texts = rng.standard_normal((n_images, 8)), rng.standard_normal((len(owner), 8))
        found = caption_retrieval(images, texts, owner, ks=(1, 3, 5))
        texts_of = [[t for t, i in enumerate(owner) if i == image] for image in range(n_images)]
        for k in (1, 3, 5):
            to_image, to_text = (
                found[f"{name}_retrieval_recall@{k}"] for name in ("image", "text")
            )
            if k <= n_images:
                expected = recall_by_sorting(texts @ images.T, [[i] for i in owner], k)
                assert to_image == pytest.approx(expected, abs=1e-12)
            else:
                assert to_image is None
            if k <= len(owner):
                expected = recall_by_sorting(images @ texts.T, texts_of, k)
                assert to_text == pytest.approx(expected, abs=1e-12)
            else:
                assert to_text is None


@pytest.mark.parametrize("chunk", [1, 2, 7, 100])
def test_retrieval_does_not_depend_on_chunks(chunk: int) -> None:
    rng = np.random.default_rng(0)
    queries, items = rng.standard_normal((9, 4)), rng.standard_normal((11, 4))
    positives = [[n, n + 1] for n in range(9)]
    expected = rank_items(queries, items, positives).ranks.tolist()
    assert rank_items(queries, items, positives, chunk=chunk).ranks.tolist() == expected


def test_answers_in_groups_count_for_as_many_as_they_are_worth() -> None:
    assert grouped_share_interval([], []) is None
    draw = np.random.default_rng(0)
    alone = (draw.random(100) < 0.7).astype(float)
    single = wilson_interval(alone.sum(), 100)
    assert grouped_share_interval(alone, np.ones(100)) == pytest.approx(single)
    assert grouped_share_interval(alone * 5, np.full(100, 5)) == pytest.approx(single)  # copies
    assert grouped_share_interval(np.full(9, 5), np.full(9, 5)) == wilson_interval(9, 9)
    inside = 0
    for _ in range(400):  # captions of an image are alike, and there are one to five of them
        sizes, ease = draw.integers(1, 6, 150), draw.beta(2, 1, 150)
        low, high = grouped_share_interval(draw.binomial(sizes, ease), sizes) or (1, 0)
        inside += low <= 2 / 3 <= high
    assert 0.92 <= inside / 400 <= 0.98


def test_retrieval_of_constants_nan_and_nothing() -> None:
    ones = np.ones((6, 3))
    own = [[n] for n in range(6)]
    assert rank_items(ones, ones, own).ranks.tolist() == [5] * 6
    assert rank_items(ones * np.nan, ones, own).ranks.tolist() == [6] * 6
    assert rank_items(ones, ones, [[]] * 6).ranks.tolist() == [6] * 6
    assert rank_items(ones[:0], ones, []).ranks.tolist() == []
    with pytest.raises(ValueError, match="one entry per query"):
        rank_items(ones, ones, [])


def test_retrieval_without_images_has_no_recall(
    caption_retrieval: Callable[..., dict[str, float | None]],
) -> None:
    found = caption_retrieval([], [], [], ks=(1,))
    assert found == {"image_retrieval_recall@1": None, "text_retrieval_recall@1": None}

"""A linear probe for several labels per image: scikit-learn's, and an evaluation with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from clip_eval import EvaluationConfig, EvaluationError, Result, evaluate
from clip_eval.data import Sample
from clip_eval.data.samples import Source
from clip_eval.tasks.multilabel_probe import (
    choose_marked_penalty,
    choose_marked_shots,
    fit_marked_probe,
)
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier

NAMES = ("has red", "has green", "has blue", "never")


class Mixed(Source):
    """Random colors; an image has each of the classes whose channel is bright."""

    name, classnames = "mixed", NAMES

    def __init__(self, count: int, seed: int) -> None:
        self.colors = np.random.default_rng(seed).integers(0, 256, (count, 3))

    def __len__(self) -> int:
        return len(self.colors)

    def read(self, index: int) -> Sample:
        color = self.colors[index]
        targets = tuple(np.flatnonzero(color > 128).tolist())
        return Sample(
            str(index), Image.new("RGB", (4, 4), tuple(color.tolist())), (), None, targets
        )


@pytest.fixture
def measure(color_model: Any, color_tokenizer: Any, color_preprocess: Any) -> Callable[..., Result]:
    def call(source: Source, train: Source, task: str = "linear-probe", **options: Any) -> Result:
        config = EvaluationConfig(**{"task": task, "keep_predictions": True, **options})
        parts = {"tokenizer": color_tokenizer, "preprocess": color_preprocess}
        return evaluate(color_model, source, **parts, config=config, train=train)

    return call


@pytest.mark.parametrize("penalty", [1e-3, 1e-1, 10.0])
def test_a_fit_is_scikit_learns(penalty: float) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((80, 5)), draw.integers(0, 2, (80, 3))
    found = fit_marked_probe(torch.tensor(x), torch.tensor(y), penalty)
    peer = OneVsRestClassifier(LogisticRegression(C=1 / (80 * penalty), tol=1e-10, max_iter=9999))
    for own, weight, bias in zip(peer.fit(x, y).estimators_, found.weight, found.bias, strict=True):
        np.testing.assert_allclose(weight, own.coef_[0], atol=1e-5)
        np.testing.assert_allclose(bias, own.intercept_[0], atol=1e-5)
    warm = fit_marked_probe(torch.tensor(x), torch.tensor(y), penalty, found)
    torch.testing.assert_close(warm.weight, found.weight, atol=1e-6, rtol=0)


def test_an_evaluation_is_that_of_scikit_learn(measure: Callable[..., Result]) -> None:
    train, test = Mixed(120, 0), Mixed(60, 1)
    found = measure(test, train, penalty=1e-4)
    assert (found.task, found.n) == ("linear_probe_multilabel", 60)
    assert found.to_dict()["task"] == "linear_probe"

    def features(source: Mixed) -> Any:
        rows = source.colors / 255 - 0.5
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    peer = OneVsRestClassifier(LogisticRegression(C=1 / (120 * 1e-4), tol=1e-10, max_iter=9999))
    peer.fit(features(train), train.colors > 128)
    truth, scores = test.colors > 128, peer.decision_function(features(test))
    expected = [average_precision_score(truth[:, c], scores[:, c]) for c in range(3)]
    assert found.metrics["lp_mean_average_precision"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert found.metrics["lp_mean_average_precision"] > 0.95 > (found.chance or 1)
    assert found.details["penalty"] == 1e-4
    assert found.details["n_train"] == 120
    assert any("1 class has no training image" in warning for warning in found.warnings)
    records: Sequence[dict[str, Any]] = found.records or ()
    assert sum(record["correct"] for record in records if record["labels"]) > 45
    assert measure(test, train).metrics["lp_mean_average_precision"] > 0.95  # its own penalty


def test_the_penalty_is_that_of_the_best_held_out_score() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 40, generator=draw)
    y = (x[:, :2] + 2 * torch.randn(60, 2, generator=draw) > 0).float()
    chosen = choose_marked_penalty(x, y)
    assert chosen == choose_marked_penalty(x, y)
    held = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:12]
    rest = torch.tensor(sorted(set(range(60)) - set(held.tolist())))

    def score(penalty: float) -> float:
        probe = fit_marked_probe(x[rest], y[rest], penalty)
        logits = x[held].double() @ probe.weight.T + probe.bias
        return float(np.mean([average_precision_score(y[held, c], logits[:, c]) for c in range(2)]))

    assert score(chosen) >= max(score(10.0**power) for power in range(-6, 4)) - 1e-9
    with pytest.raises(EvaluationError, match="held-out samples with classes"):
        choose_marked_penalty(x[:2], y[:2])


def test_shots_are_per_class() -> None:
    marks = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 0], [0, 0]])
    chosen = choose_marked_shots(marks, 1, seed=0)
    assert 1 <= len(chosen) <= 2
    assert (marks[chosen].sum(dim=0) >= 1).all()
    assert choose_marked_shots(marks, 9, seed=0).tolist() == [0, 1, 2, 3]


def test_what_does_not_fit_is_refused(measure: Callable[..., Result]) -> None:
    class Single(Mixed):
        def read(self, index: int) -> Sample:
            sample = super().read(index)
            return Sample(sample.key, sample.image, (), index % 3)

    with pytest.raises(EvaluationError, match="which knn does not take"):
        measure(Mixed(9, 0), Mixed(9, 1), task="knn")
    for pair in ((Single(9, 0), Mixed(9, 1)), (Mixed(9, 0), Single(9, 1))):
        with pytest.raises(EvaluationError, match="have several labels each and those of"):
            measure(*pair)

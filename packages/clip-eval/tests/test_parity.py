"""The numbers of CLIP_benchmark's, open_clip's and scikit-learn's own functions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification
from clip_benchmark.metrics.zeroshot_classification import accuracy, average_precision_per_class
from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k
from clip_eval import build_classifier
from clip_eval.encoding.batches import ImageBatch, LoadedSample
from clip_eval.metrics.functions import (
    average_precision,
    selection_correct,
)
from clip_eval.prompts.prompt_sets import find_prompt_set, get_prompt_set, list_prompt_sets
from clip_eval.tasks.classification import Classification
from clip_eval.tasks.knn import TEMPERATURE, NearestNeighbors, vote
from clip_eval.tasks.linear_probe import LinearProbe, choose_penalty, fit_probe
from clip_eval.tasks.multilabel import MultiLabel
from clip_models import CLIP, CLIPConfig
from clip_models.config import TextConfig, ViTConfig
from clip_tokenizer import Tokenizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torch.nn.functional import normalize

SEEDS = 200


def batch_of(labels: Any = None, targets: Any = None) -> ImageBatch:
    rows = labels if labels is not None else targets
    samples = tuple(
        LoadedSample(
            index=n,
            key=str(n),
            digest=b"",
            label=None if labels is None else int(labels[n]),
            targets=None if targets is None else tuple(np.flatnonzero(targets[n]).tolist()),
            captions=(),
            content=b"",
        )
        for n in range(len(rows))
    )
    return ImageBatch(
        number=0,
        samples=samples,
        images=torch.empty(0),
        places=tuple(range(len(samples))),
        rows=(),
        skipped=(),
        contents=(b"",) * len(samples),
    )


def unit(generator: np.random.Generator, *shape: int) -> torch.Tensor:
    return normalize(torch.from_numpy(generator.standard_normal(shape)), dim=-1)


def test_classification_equals_clip_benchmark_on_200_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # NumPy 2.5 makes no float of an array of one number, which CLIP_benchmark asks for.
    monkeypatch.setattr(zeroshot_classification, "float", lambda one: one.item(), raising=False)
    for seed in range(SEEDS):
        draw = np.random.default_rng(seed)
        classes, n = int(draw.integers(1, 12)), int(draw.integers(1, 60))
        labels = draw.integers(0, max(1, classes - int(draw.integers(0, 4))), n)  # some are absent
        features, classifier = unit(draw, n, 6), unit(draw, classes, 6)
        task = Classification([str(c) for c in range(classes)], classifier, scale=10.0)
        result = task.result(task.rows(batch_of(labels), features))
        logits, target = 100 * features @ classifier.T, torch.from_numpy(labels)
        (acc1,) = accuracy(logits, target, topk=(1,))
        assert result.metrics["acc1"] == pytest.approx(acc1, abs=1e-12)
        if classes >= 5:
            acc1, acc5 = accuracy(logits, target, topk=(1, 5))
            assert result.metrics["acc5"] == pytest.approx(acc5, abs=1e-12)
        else:
            assert result.metrics["acc5"] is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of predicted classes that are no label
            recall = balanced_accuracy_score(target, logits.argmax(dim=1))
        assert result.metrics["mean_per_class_recall"] == pytest.approx(recall, abs=1e-12)


def test_multilabel_equals_clip_benchmark_on_200_seeds() -> None:
    for seed in range(SEEDS):
        draw = np.random.default_rng(seed)
        classes, n = int(draw.integers(1, 8)), int(draw.integers(1, 40))
        targets = draw.random((n, classes)) < draw.random(classes)  # some without a positive
        features, classifier = unit(draw, n, 5), unit(draw, classes, 5)
        task = MultiLabel([str(c) for c in range(classes)], classifier)
        rows = task.rows(batch_of(targets=targets), features)
        result = task.result(rows)
        scores = features @ classifier.T
        each = average_precision_per_class(scores.float(), torch.from_numpy(targets).float())
        expected = float(each.mean())
        found = result.metrics["mean_average_precision_all"]
        assert found == pytest.approx(expected, abs=1e-6)
        for score, value in zip(result.per_class, each.tolist(), strict=True):
            assert (score.accuracy or 0.0) == pytest.approx(value, abs=1e-6)
        present = [v for v, has in zip(each.tolist(), targets.any(axis=0), strict=True) if has]
        main = result.metrics["mean_average_precision"]
        assert main is None if not present else main == pytest.approx(np.mean(present), abs=1e-6)


def test_retrieval_equals_clip_benchmark_on_200_seeds(
    caption_retrieval: Callable[..., dict[str, float | None]],
) -> None:
    for seed in range(SEEDS):
        draw = np.random.default_rng(seed)
        images = int(draw.integers(2, 15))
        owner = np.repeat(np.arange(images), draw.integers(1, 6, images))  # one to five captions
        image, text = unit(draw, images, 8), unit(draw, len(owner), 8)
        scores = text @ image.T
        positive = torch.zeros_like(scores, dtype=torch.bool)
        positive[torch.arange(len(owner)), torch.from_numpy(owner)] = True
        found = caption_retrieval(image.numpy(), text.numpy(), owner.tolist(), ks=(1, 5, 10))
        for k in (1, 5, 10):
            for name, table, truth in (
                ("image", scores, positive),
                ("text", scores.T, positive.T),
            ):
                value = found[f"{name}_retrieval_recall@{k}"]
                if k > table.shape[1]:
                    assert value is None
                    continue
                recall = batchify(recall_at_k, table, truth, 4, "cpu", k=k)
                assert value == pytest.approx(float((recall > 0).double().mean()), abs=1e-12)


def test_selection_equals_clip_benchmarks_rule_on_200_seeds() -> None:
    for seed in range(SEEDS):
        draw = np.random.default_rng(seed)
        shape = (1, 2) if seed % 2 else (2, 2)
        scores = torch.from_numpy(draw.random(shape))
        truth = torch.arange(min(shape))
        text = bool((scores.argmax(dim=1)[: len(truth)] == truth).all())
        image = bool((scores.argmax(dim=0)[: len(truth)] == truth).all())
        assert selection_correct(scores.numpy(), truth.tolist()) == (image, text)
    assert selection_correct(np.zeros((2, 2)), [0, 1]) == (False, False)
    assert selection_correct(np.full((1, 2), np.nan), [0]) == (False, False)


def clusters(seed: int, n: int, classes: int = 4, width: int = 6) -> tuple[torch.Tensor, Any]:
    draw = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((classes, width))
    labels = draw.integers(0, classes, n)
    points = centers[labels] + 0.8 * draw.standard_normal((n, width))
    return normalize(torch.from_numpy(points), dim=-1), labels


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_a_probe_is_scikit_learns_logistic_regression(penalty: float) -> None:
    features, labels = clusters(0, 150)
    probe = fit_probe(features, torch.from_numpy(labels), 4, penalty)
    peer = LogisticRegression(C=1 / (len(labels) * penalty), tol=1e-10, max_iter=5000)
    peer.fit(features.numpy(), labels)
    np.testing.assert_allclose(probe.weight.numpy(), peer.coef_, atol=2e-4)

    test, truth = clusters(1, 80)
    task = LinearProbe("abcd", probe, torch.device("cpu"))
    result = task.result(task.rows(batch_of(truth), test.float()))
    assert result.metrics["lp_acc1"] == pytest.approx(peer.score(test.numpy(), truth), abs=1e-12)
    assert result.details["penalty"] == penalty


def test_the_penalty_is_chosen_by_held_out_samples_alone() -> None:
    features, labels = clusters(0, 80)
    truth = torch.from_numpy(labels)
    chosen = choose_penalty(features, truth, 4)
    assert chosen == choose_penalty(features, truth, 4)
    assert 1e-6 <= chosen <= 1e4
    noise = torch.from_numpy(np.random.default_rng(5).integers(0, 4, 80))
    smooth, sharp = choose_penalty(features, noise, 4, seed=3), chosen
    assert smooth != sharp  # labels that mean nothing call for another one
    with pytest.raises(ValueError, match="two samples of some class"):
        choose_penalty(features[:2], torch.tensor([0, 1]), 4)


@pytest.mark.parametrize("k", [1, 5, 200])
def test_neighbors_are_those_of_scikit_learn(k: int) -> None:
    train, labels = clusters(0, 90)
    test, truth = clusters(1, 60)
    peer = KNeighborsClassifier(
        min(k, 90), metric="cosine", weights=lambda d: np.exp((1 - d) / TEMPERATURE)
    )
    peer.fit(train.numpy(), labels)
    shares = vote(test, train, torch.from_numpy(labels), 4, k=k)
    np.testing.assert_allclose(shares.numpy(), peer.predict_proba(test.numpy()), atol=1e-9)
    task = NearestNeighbors("abcd", train, torch.from_numpy(labels), k=k)
    result = task.result(task.rows(batch_of(truth), test))
    assert result.metrics["knn_acc1"] == pytest.approx(peer.score(test.numpy(), truth), abs=1e-12)


def test_the_classifier_equals_open_clips_with_80_templates() -> None:
    import open_clip

    config = CLIPConfig(
        embed_dim=32,
        vision=ViTConfig(image_size=32, patch_size=16, width=32, num_layers=1, num_heads=2),
        text=TextConfig(width=48, num_layers=2, num_heads=2),
    )
    torch.manual_seed(0)
    model = CLIP(config).eval()
    peer = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
        text_cfg={"width": 48, "layers": 2, "heads": 2},
    ).eval()
    peer.load_state_dict(model.state_dict())
    prompt_set = get_prompt_set("imagenet1k")
    names = [*(prompt_set.classnames or ())[:4], "kite (bird of prey)"]
    expected = open_clip.build_zero_shot_classifier(
        peer,
        open_clip.get_tokenizer("ViT-B-32"),
        names,
        open_clip.OPENAI_IMAGENET_TEMPLATES,
    ).T
    found = build_classifier(model, Tokenizer.openai(), names, prompt_set.templates or ())
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_prompt_sets_are_those_of_clip_benchmark_and_open_clip() -> None:
    import open_clip

    tables = files("clip_benchmark.datasets")
    names = json.loads(tables.joinpath("en_classnames.json").read_text("utf-8"))
    templates = json.loads(
        tables.joinpath("en_zeroshot_classification_templates.json").read_text("utf-8")
    )
    for name in list_prompt_sets():
        prompt_set = get_prompt_set(name)
        if name in names:
            assert list(prompt_set.classnames or ()) == names[name]
        if name in templates:
            assert list(prompt_set.templates or ()) == templates[name]
    imagenet = get_prompt_set("imagenet1k")
    assert [t.replace("{c}", "X") for t in imagenet.templates or ()] == [
        t("X") for t in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]
    assert list(imagenet.classnames or ()) == list(open_clip.IMAGENET_CLASSNAMES)
    assert get_prompt_set("imagenet-r").templates == imagenet.templates
    assert find_prompt_set("my-own-set") is None


def test_average_precision_of_one_class_by_hand() -> None:
    assert average_precision([0.9, 0.8, 0.7], [1, 0, 1]) == pytest.approx((1 + 2 / 3) / 2)

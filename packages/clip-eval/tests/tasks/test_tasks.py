from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_eval import EvaluationConfig, EvaluationError, Result, evaluate
from clip_eval.data import Sample, open_source
from clip_eval.data.samples import Source
from clip_eval.tasks.guesses import guess_classes
from PIL import Image

COLORS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
YELLOW = (240, 240, 10)


def picture(color: tuple[int, int, int], seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-8, 9, (8, 8, 3))
    return Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8))


class Listed(Source):
    """Samples in memory."""

    name = "listed"

    def __init__(self, samples: Sequence[Sample], classnames: tuple[str, ...] | None = None):
        self.samples, self.classnames = samples, classnames

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Sample:
        return self.samples[index]


@pytest.fixture
def run(color_model: Any, color_tokenizer: Any, color_preprocess: Any) -> Callable[..., Result]:
    def call(source: Source, task: str, train: Source | None = None, **options: Any) -> Result:
        result = evaluate(
            color_model,
            source,
            tokenizer=color_tokenizer,
            preprocess=color_preprocess,
            config=EvaluationConfig(**{"task": task, "keep_predictions": True, **options}),
            train=train,
        )
        json.dumps(result.to_dict(), allow_nan=False)
        assert result.content
        return result

    return call


def test_several_classes_an_image(run: Callable[..., Result]) -> None:
    names = ("red", "green", "yellow", "white")
    samples = [
        Sample("r", picture(COLORS["red"]), targets=(0,)),
        Sample("y", picture(YELLOW), targets=(0, 1, 2)),
        Sample("g", picture(COLORS["green"]), targets=(1,)),
        Sample("none", picture((5, 5, 5)), targets=()),
    ]
    result = run(Listed(samples, names), "auto", templates=["{c}"])
    assert result.task == "zeroshot_multilabel"
    assert result.n == 4
    assert [score.n for score in result.per_class] == [2, 2, 1, 0]
    assert result.per_class[3].accuracy is None
    mean = result.metrics["mean_average_precision"]
    assert mean == pytest.approx(1.0)
    assert result.metrics["mean_average_precision_all"] == pytest.approx(0.75)
    assert any("1 of 4 classes have no image" in w for w in result.warnings)
    records = list(result.prediction_records())
    assert records[1]["labels"] == ["red", "green", "yellow"]
    assert records[1]["correct"]
    assert result.to_dict()["task"] == "zeroshot_classification"
    with pytest.raises(EvaluationError, match="label 7, but there are 4"):
        run(Listed([Sample("x", picture(YELLOW), targets=(7,))], names), "multilabel")
    with pytest.raises(EvaluationError, match="has no list of classes"):
        run(Listed([Sample("x", picture(YELLOW), label=1)], names), "multilabel")


def test_retrieval_both_ways_with_several_captions(run: Callable[..., Result]) -> None:
    samples = [
        Sample(name, picture(color), (f"a {name} thing", f"something {name}"))
        for name, color in COLORS.items()
    ]
    samples.append(Sample("y", picture(YELLOW), ("the blue one",)))
    result = run(Listed(samples), "auto", batch_size=3)
    assert result.task == "zeroshot_retrieval"
    assert result.metrics["image_retrieval_recall@1"] == pytest.approx(6 / 7)
    # blue's own captions tie with the yellow image's "the blue one", and a tie is no hit
    assert result.metrics["text_retrieval_recall@1"] == pytest.approx(2 / 4)
    assert result.metrics["image_retrieval_recall@5"] is None
    assert result.metrics["text_retrieval_recall@5"] == pytest.approx(3 / 4)
    assert (result.n, result.details["n_captions"]) == (4, 7)
    wrong = [record for record in result.prediction_records() if not record["correct"]]
    assert {record["key"] for record in wrong} == {"image y", "image blue", "text y 0"}
    low, high = result.ci95["image_retrieval_recall@1"] or (1, 0)
    assert low < 6 / 7 < high
    with pytest.raises(EvaluationError, match="have no captions"):
        run(Listed([Sample("x", picture(YELLOW))]), "retrieval")
    with pytest.raises(EvaluationError, match="neither labels nor captions"):
        run(Listed([Sample("x", picture(YELLOW))]), "auto")


def test_choice_of_the_caption(run: Callable[..., Result]) -> None:
    red, blue = picture(COLORS["red"]), picture(COLORS["blue"])
    pair = ("a red thing", "a blue thing")
    result = run(
        Listed(
            [
                Sample("1a", red, pair),
                Sample("1b", blue, pair),  # a group of two images: both right
                Sample("2", blue, ("red", "blue")),  # one image, the first caption is right
                Sample("3", blue, ("red", "blue", "no color"), label=1),
            ]
        ),
        "select",
        batch_size=1,
    )
    assert result.metrics == {
        "image_acc": 1.0,
        "text_acc": pytest.approx(2 / 3),
        "acc": pytest.approx(2 / 3),
    }
    assert [record["correct"] for record in result.prediction_records()] == [True, False, True]
    with pytest.raises(EvaluationError, match="select needs two or more"):
        run(Listed([Sample("x", red, ("one",))]), "select")
    with pytest.raises(EvaluationError, match="number 5, but the group has 2"):
        run(Listed([Sample("x", red, ("one", "two"), label=5)]), "select")


def test_a_group_that_may_have_lost_an_image_is_left_out(run: Callable[..., Result]) -> None:
    red, blue = picture(COLORS["red"]), picture(COLORS["blue"])
    pairs = [("a red thing", "a blue thing"), ("red", "blue"), ("one red", "one blue")]
    samples = [Sample(f"{pair}", image, pair) for pair in pairs for image in (red, blue)]
    for batch_size in (1, 2, 4, 6):
        assert run(Listed(samples), "select", batch_size=batch_size).metrics["acc"] == 1.0
        lost = [*samples[:2], Sample("lost", b"no image", pairs[1]), *samples[3:]]
        result = run(Listed(lost), "select", batch_size=batch_size)
        # the blue image that is left of the second pair is not taken for the first of its group
        assert (result.metrics["acc"], result.n, result.n_skipped) == (1.0, 1, 1)
        assert any("2 groups beside skipped" in warning for warning in result.warnings)
    named = [Sample(s.key, s.image, s.captions, label=n % 2) for n, s in enumerate(lost)]
    assert run(Listed(named), "select").n == 3


@pytest.mark.parametrize("task", ["retrieval", "select"])
def test_class_names_in_templates_are_no_captions(
    run: Callable[..., Result], color_folder: Path, color_shards: Path, task: str
) -> None:
    for place in (color_folder, color_shards):
        with pytest.raises(EvaluationError, match=f"no captions, which {task} needs"):
            run(open_source(place), task)


def test_an_embedding_that_is_not_finite_has_no_class(
    run: Callable[..., Result], color_model: Any
) -> None:
    names = ("red", "green", "blue")
    samples = [Sample(name, picture(COLORS[name]), targets=(n,)) for n, name in enumerate(names)]
    original = color_model.encode_image

    def broken(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = original(images)
        features[:2] = float("nan")
        return features

    color_model.encode_image = broken
    result = run(Listed(samples, names), "multilabel", templates=["{c}"])
    records = list(result.prediction_records())
    assert [(r["correct"], len(r["guesses"])) for r in records] == [(False, 0)] * 2 + [(True, 3)]
    # both rank last, and together: red and green are each found at the third of three places
    assert [score.accuracy for score in result.per_class] == pytest.approx([1 / 3, 1 / 3, 1.0])


def test_a_class_direction_that_is_not_finite_is_named(
    run: Callable[..., Result], color_model: Any
) -> None:
    original = color_model.encode_text

    def broken(tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = original(tokens)
        features[tokens[:, 0] == 2] = float("nan")  # green
        return features

    color_model.encode_text = broken
    with pytest.raises(
        EvaluationError, match=r"of 1 of 3 classes are not finite, such as .*'green"
    ):
        run(labeled(4, 0), "classify", templates=["{c}"])


def test_without_a_usable_sample_there_is_no_number(run: Callable[..., Result]) -> None:
    broken = Listed([Sample("x", b"no image", targets=(0,))], ("red", "green"))
    result = run(broken, "multilabel", templates=["{c}"])
    assert set(result.metrics.values()) == {None}
    assert result.warnings == ("no sample could be used, so there is no number",)


def test_chance_is_that_of_the_first_metric(run: Callable[..., Result]) -> None:
    test = labeled(5, 0)
    for k, chance in ((1, 1 / 3), (2, 2 / 3), (4, 1.0)):
        options = {"templates": ["{c}"], "ks": (k,), "recall_ks": (k,)}
        assert run(test, "classify", **options).chance == pytest.approx(chance)
        captions = [Sample(s.key, s.image, (f"{s.key} red",)) for s in test.samples[:3]]
        assert run(Listed(captions), "retrieval", **options).chance == pytest.approx(chance)


def test_equal_names_and_equal_samples_are_told(run: Callable[..., Result]) -> None:
    train, test = labeled(30, 0), labeled(14, 1)
    assert not run(test, "knn", train=train).warnings
    assert "the training samples are the test samples" in run(test, "knn", train=test).warnings[0]
    test.classnames = ("red", "red", "blue")
    result = run(test, "classify", templates=["{c}"])
    assert any("several classes share a name: red" in warning for warning in result.warnings)


def labeled(n: int, seed: int) -> Listed:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, n).tolist()
    values = list(COLORS.values())
    samples = [
        Sample(str(k), picture(values[y], 50 * seed + k), label=y) for k, y in enumerate(labels)
    ]
    return Listed(samples, tuple(COLORS))


@pytest.mark.parametrize(("task", "metric"), [("linear-probe", "lp_acc1"), ("knn", "knn_acc1")])
def test_learning_from_a_training_set(
    run: Callable[..., Result], task: str, metric: str, tmp_path: Path
) -> None:
    train, test = labeled(30, 0), labeled(14, 1)
    result = run(test, task, train=train, cache=tmp_path)
    assert result.metrics[metric] == 1.0
    assert result.n == 14
    assert result.templates == ()
    assert len(result.per_class) == 3
    assert result.details
    assert result.metrics[f"{metric[:-1]}5"] is None
    again = run(test, task, train=train, cache=tmp_path)
    assert again.predictions == result.predictions
    with pytest.raises(EvaluationError, match="needs a training set"):
        run(test, task)
    broken = Listed([Sample("x", b"no image", label=0)], test.classnames)
    with pytest.raises(EvaluationError, match="none of the training images"):
        run(test, task, train=broken)
    other = labeled(4, 2)
    other.classnames = ("green", "red", "blue")
    with pytest.raises(EvaluationError, match="the same names in another order"):
        run(test, task, train=other)


def test_a_class_without_a_vote_is_no_guess(run: Callable[..., Result]) -> None:
    names = tuple(f"class {n}" for n in range(6))
    train = Listed([Sample(str(n), picture(COLORS["red"], n), label=n) for n in range(6)], names)
    test = Listed(
        [Sample(str(n), picture(COLORS["red"], 50 + n), label=n) for n in range(6)], names
    )
    result = run(test, "knn", train=train, neighbors=1)
    assert result.metrics["knn_acc5"] == result.metrics["knn_acc1"]
    assert all(p.probabilities == (1.0,) for p in result.predictions or ())


def test_one_shot_chooses_no_penalty(run: Callable[..., Result]) -> None:
    with pytest.raises(EvaluationError, match="give --penalty, or more --shots"):
        run(labeled(4, 1), "linear-probe", train=labeled(9, 0), shots=1)


def test_classes_come_in_pieces() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(7, 5, generator=draw)
    classifier = torch.randn(103, 5, generator=draw)
    whole = guess_classes(features, classifier, scale=3.0, limit=5)
    logits = 3.0 * features @ classifier.T
    assert torch.equal(whole.classes, logits.topk(5).indices)
    torch.testing.assert_close(whole.probabilities, logits.softmax(-1).topk(5).values)
    for chunk in (1, 4, 50, 102):
        found = guess_classes(features, classifier, scale=3.0, limit=5, chunk=chunk)
        assert torch.equal(found.classes, whole.classes)
        torch.testing.assert_close(found.probabilities, whole.probabilities)
    features[2, 0] = float("nan")
    found = guess_classes(features, classifier, scale=1.0, limit=200, chunk=50)
    assert found.finite.tolist() == [True, True, False, True, True, True, True]
    assert found.row(2) == ((), ())
    assert len(found.row(0)[0]) == 103


def test_prompts_of_each_class(
    run: Callable[..., Result], color_folder: Path, color_tokenizer: Any
) -> None:
    prompts = {"red": ["red as {c}", "red {x}"], "green": ["green!"], "blue": ["blue"]}
    result = run(open_source(color_folder), "classify", templates=prompts)
    assert result.metrics["acc1"] == 1.0
    assert set(color_tokenizer.seen) == {"red as red", "red {x}", "green!", "blue"}
    assert result.to_dict()["templates"]["red"] == ["red as {c}", "red {x}"]
    del prompts["green"]
    with pytest.raises(ValueError, match=r"no prompts for 1 of 3 classes \('green'\)"):
        run(open_source(color_folder), "classify", templates=prompts)


def test_lower_precision_is_close(run: Callable[..., Result], color_folder: Path) -> None:
    exact, rough = (
        run(open_source(color_folder), "classify", templates=["{c}"], precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert rough.metrics == exact.metrics


def test_clip_benchmarks_shards_with_several_labels(
    run: Callable[..., Result],
    tmp_path: Path,
    write_tar: Callable[..., Path],
    encode: Callable[..., bytes],
) -> None:
    def array(marks: list[float]) -> bytes:
        out = io.BytesIO()
        np.save(out, np.array(marks))
        return out.getvalue()

    files = {
        "s0.png": encode(COLORS["red"]),
        "s0.npy": array([1, 0, 0]),
        "s1.png": encode(YELLOW),
        "s1.npy": array([1, 1, 0]),
        "s2.png": encode(COLORS["green"]),
        "s2.npy": b"no array",
        "s3.png": encode(COLORS["green"]),
        "s3.npy": array([0, 1, 0]),
    }
    write_tar(tmp_path / "wds" / "test" / "0.tar", files)
    (tmp_path / "wds" / "test" / "nshards.txt").write_text("1")
    (tmp_path / "wds" / "classnames.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "wds" / "dataset_type.txt").write_text("multilabel")
    result = run(open_source(tmp_path / "wds"), "auto", templates=["{c}"])
    assert result.task == "zeroshot_multilabel"
    assert [score.n for score in result.per_class] == [2, 2, 0]
    assert [(s.key, s.reason) for s in result.skipped] == [("0.tar/s2", "bad-label")]

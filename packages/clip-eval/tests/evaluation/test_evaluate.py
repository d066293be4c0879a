from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_eval import EvaluationConfig, EvaluationError, Result, evaluate
from clip_eval.data import Sample, decode_image, open_source
from clip_eval.data.samples import Source
from torch import Tensor
from torch.nn.functional import normalize

TEMPLATES = ("a photo of a {c}.", "{c}")


@pytest.fixture
def run(color_model: Any, color_tokenizer: Any, color_preprocess: Any) -> Callable[..., Result]:
    def call(source: Source, **options: Any) -> Result:
        arguments = {
            "tokenizer": color_tokenizer,
            "preprocess": color_preprocess,
            **{name: options.pop(name) for name in ("indices", "model_name") if name in options},
        }
        config = EvaluationConfig(**{"templates": TEMPLATES, **options})
        return evaluate(color_model, source, config=config, **arguments)

    return call


def test_numbers_equal_those_by_hand(
    run: Callable[..., Result],
    color_folder: Path,
    color_model: Any,
    color_tokenizer: Any,
    color_preprocess: Any,
    encode: Callable[..., bytes],
) -> None:
    (color_folder / "red" / "wrong.png").write_bytes(encode((10, 250, 10)))
    (color_folder / "blue" / "mixed.png").write_bytes(encode((120, 100, 140)))
    source = open_source(color_folder)
    result = run(source, keep_predictions=True, batch_size=5)

    color_model.eval().requires_grad_(False)
    names = ["blue", "green", "red"]
    texts = [normalize(color_model.encode_text(color_tokenizer([n]))[0], dim=0) for n in names]
    correct = []
    for index in range(len(source)):
        sample = source.read(index)
        image = color_preprocess.normalize(color_preprocess(decode_image(sample.image))[None])
        feature = normalize(color_model.encode_image(image)[0], dim=0)
        scores = torch.stack([feature @ text for text in texts]) * color_model.logit_scale.exp()
        correct.append(int(scores.argmax()) == sample.label)
        prediction = result.predictions[index] if result.predictions else None
        assert prediction is not None
        assert prediction.key == sample.key
        assert prediction.guesses[0] == int(scores.argmax())
        assert prediction.probabilities[0] == pytest.approx(
            float(scores.softmax(0).max()), abs=1e-5
        )
        assert prediction.correct == correct[-1]
    assert result.metrics["acc1"] == pytest.approx(sum(correct) / len(correct))
    assert (result.n, result.n_skipped, len(source)) == (14, 0, 14)
    assert result.metrics["acc5"] is None
    assert result.chance == pytest.approx(1 / 3)
    assert ("red", "green", 1) in [(c.label, c.predicted, c.n) for c in result.confusions]
    red = result.per_class[2]
    assert (red.name, red.n, red.correct, red.accuracy) == ("red", 5, 4, pytest.approx(0.8))
    low, high = result.ci95["acc1"] or (0, 0)
    assert low < (result.metrics["acc1"] or 0) < high


def test_folder_and_shards_give_the_same_number(
    run: Callable[..., Result], color_folder: Path, color_shards: Path
) -> None:
    for source in (open_source(color_folder), open_source(color_shards)):
        result = run(source)
        assert result.metrics["acc1"] == 1.0
        assert result.n == 12


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_does_not_matter(
    run: Callable[..., Result], color_folder: Path, batch_size: int
) -> None:
    source = open_source(color_folder, classnames=["red", "green", "blue", "white", "black"])
    result = run(source, batch_size=batch_size, keep_predictions=True)
    reference = run(source, batch_size=3, keep_predictions=True)
    assert result.metrics == reference.metrics
    assert result.metrics["acc5"] == 1.0
    for one, other in zip(result.predictions or (), reference.predictions or (), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_worker_processes_give_the_same_result(
    run: Callable[..., Result], color_shards: Path
) -> None:
    source = open_source(color_shards)
    alone, helped = (run(source, batch_size=5, workers=n, keep_predictions=True) for n in (0, 2))
    assert alone.predictions == helped.predictions


def test_training_goes_on_as_if_nothing_had_happened(
    run: Callable[..., Result], color_folder: Path, color_model: Any
) -> None:
    color_model.train()
    color_model.frozen = torch.nn.Linear(1, 1).eval()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(open_source(color_folder))
    assert torch.equal(torch.get_rng_state(), before)
    assert color_model.training
    assert color_model.dropout.training
    assert not color_model.frozen.training
    assert all(p.grad is None and p.requires_grad for p in color_model.parameters())
    with pytest.raises(RuntimeError, match="boom"):
        run(Exploding())
    assert color_model.dropout.training


class Exploding(Source):
    name, classnames = "exploding", ("red",)

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Sample:
        raise RuntimeError("boom")


def test_bad_samples_are_skipped_counted_and_named(
    run: Callable[..., Result], color_folder: Path, encode: Callable[..., bytes]
) -> None:
    (color_folder / "red" / "0.png").write_bytes(b"")
    (color_folder / "green" / "1.png").write_bytes(b"not an image at all" * 9)
    jpeg = encode((10, 10, 250), "JPEG")
    (color_folder / "blue" / "2.png").write_bytes(jpeg[: len(jpeg) // 2])
    source = open_source(color_folder)
    (color_folder / "blue" / "3.png").unlink()
    result = run(source, batch_size=2)
    assert (result.n, result.n_skipped) == (8, 4)
    assert {(s.key, s.reason) for s in result.skipped} == {
        ("red/0.png", "empty"),
        ("green/1.png", "not-an-image"),
        ("blue/2.png", "truncated"),
        ("blue/3.png", "unreadable"),
    }
    assert result.metrics["acc1"] == 1.0
    assert sum(score.n for score in result.per_class) == 8


def test_nothing_usable_gives_null_and_says_so(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "0.png").write_bytes(b"")
    result = run(open_source(tmp_path))
    assert result.metrics == {"acc1": None, "acc5": None, "mean_per_class_recall": None}
    assert result.ci95["acc1"] is None
    assert any("no sample could be used" in warning for warning in result.warnings)
    assert any("one class" in w for w in run(open_source(tmp_path)).warnings) is False


def test_default_template_comes_with_a_warning(
    run: Callable[..., Result], color_folder: Path, color_tokenizer: Any
) -> None:
    result = run(open_source(color_folder), templates=None)
    assert result.templates == ("a photo of a {c}.",)
    assert any("a photo of a {c}." in warning for warning in result.warnings)
    assert "a photo of a red." in color_tokenizer.seen
    (color_folder / "zeroshot_classification_templates.txt").write_text("the {c}\n")
    saved = run(open_source(color_folder), templates=None)
    assert (saved.templates, saved.warnings) == (("the {c}",), ())


def test_an_absent_class_is_null_and_not_in_the_mean(
    run: Callable[..., Result], color_folder: Path
) -> None:
    source = open_source(color_folder, classnames=["red", "green", "blue", "white"])
    result = run(source)
    assert result.per_class[3].accuracy is None
    assert result.metrics["mean_per_class_recall"] == 1.0
    assert result.chance == 0.25
    assert any("white" in warning for warning in result.warnings)


def test_infinite_embeddings_are_wrong_and_reported(
    run: Callable[..., Result], color_folder: Path, color_model: Any
) -> None:
    encode_image = color_model.encode_image

    def broken(images: Tensor) -> Tensor:
        features = encode_image(images)
        features[0] = float("nan")
        return features

    color_model.encode_image = broken
    result = run(open_source(color_folder), batch_size=4, keep_predictions=True)
    assert result.metrics["acc1"] == pytest.approx(9 / 12)
    assert any("3 samples have embeddings that are not finite" in w for w in result.warnings)
    assert result.predictions is not None
    assert result.predictions[0].guesses == ()
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_constant_model_is_diagnosed(
    run: Callable[..., Result], color_folder: Path, color_model: Any
) -> None:
    color_model.encode_image = lambda images: torch.ones(len(images), 3)
    result = run(open_source(color_folder))
    assert any("every prediction is" in warning for warning in result.warnings)


def test_labels_and_names_must_fit(
    run: Callable[..., Result], color_shards: Path, tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    shards = open_source(color_shards / "test" / "*.tar")
    with pytest.raises(EvaluationError, match="expected 3 class names in label order, got 2"):
        run(shards, classnames=["red", "green"])
    assert run(shards, classnames=["red", "green", "blue"]).metrics["acc1"] == 1.0
    png = (color_shards / "test" / "0.tar").read_bytes()[512:]
    unlabeled = open_source(write_tar(tmp_path / "u" / "a.tar", {"0.png": png, "0.txt": b"red"}))
    with pytest.raises(EvaluationError, match="no class names"):
        run(unlabeled)
    with pytest.raises(EvaluationError, match="has no label"):
        run(unlabeled, classnames=["red"])
    labeled = open_source(write_tar(tmp_path / "l" / "a.tar", {"0.png": png, "0.cls": b"5"}))
    with pytest.raises(EvaluationError, match="label 5, but there are 2 class names"):
        run(labeled, classnames=["red", "blue"])


def test_a_subset_can_be_chosen(run: Callable[..., Result], color_folder: Path) -> None:
    result = run(open_source(color_folder), indices=[0, 4, 5], keep_predictions=True)
    assert [p.index for p in result.predictions or ()] == [0, 4, 5]


def test_the_record_is_strict_json_with_the_standard_keys(
    run: Callable[..., Result], color_folder: Path
) -> None:
    result = run(open_source(color_folder), keep_predictions=True, model_name="tiny")
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= set(record)
    assert (record["n"], record["metrics"]["acc1"], record["model"]) == (12, 1.0, "tiny")
    assert record["metrics"]["acc5"] is None
    assert record["n_classes"] == 3
    first = next(iter(result.prediction_records()))
    assert (first["key"], first["label"], first["correct"]) == ("blue/0.png", "blue", True)
    assert len(first["guesses"]) == len(first["probabilities"]) == 3

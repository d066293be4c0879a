from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from clip_eval import (
    EvaluationConfig,
    EvaluationError,
    ImageTextModel,
    evaluate,
    load_for_evaluation,
)
from clip_eval.data import open_source
from clip_tokenizer import Tokenizer


@pytest.fixture
def run_directory(trained_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_directory, tmp_path / "run"))


def test_everything_is_loaded_and_fits_together(run_directory: Path, color_folder: Path) -> None:
    loaded = load_for_evaluation(run_directory)
    assert isinstance(loaded.model, ImageTextModel)
    assert not loaded.model.training
    assert (loaded.name, loaded.templates) == ("run", ("a {c} thing",))
    result = evaluate(
        loaded.model,
        open_source(color_folder),
        tokenizer=loaded.tokenizer,
        preprocess=loaded.preprocess,
        config=EvaluationConfig(templates=loaded.templates),
    )
    assert result.metrics["acc1"] == 1.0


def test_a_checkpoint_takes_the_rest_from_its_run(run_directory: Path) -> None:
    checkpoint = run_directory / "checkpoints" / "step-0000010"
    checkpoint.mkdir(parents=True)
    for name in ("model.safetensors", "clip_config.json"):
        (run_directory / name).rename(checkpoint / name)
    loaded = load_for_evaluation(checkpoint)
    assert (loaded.name, loaded.templates) == ("run/step-0000010", ("a {c} thing",))
    with pytest.raises(EvaluationError, match=r"training has not ended.*step-0000010"):
        load_for_evaluation(run_directory)


def test_what_is_missing_or_damaged_is_named(run_directory: Path, tmp_path: Path) -> None:
    def fails(path: Path, words: str) -> None:
        with pytest.raises(EvaluationError, match=words) as caught:
            load_for_evaluation(path)
        assert len(str(caught.value).splitlines()) == 1

    fails(tmp_path / "absent", "does not exist")
    (tmp_path / "file").write_text("x")
    fails(tmp_path / "file", "is a file")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "no model.safetensors in it")
    weights = run_directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    fails(run_directory, "damaged")
    (run_directory / "clip_config.json").unlink()
    fails(run_directory, "no clip_config.json")
    for other, prefix in (
        ("config.json", "hf:"),
        ("open_clip_config.json", "open_clip:local-dir:"),
    ):
        (run_directory / other).write_text("{}")
        fails(run_directory, f"holds {other} and no clip_config.json; give {prefix}{run_directory}")
    fails(Path("openai/clip-vit-base-patch32"), "does not exist; give .* hf:ID")


def test_a_tokenizer_must_be_there_and_belong_to_the_model(run_directory: Path) -> None:
    larger = Tokenizer.train(["red green blue"] * 9, 530, context_length=24)
    larger.save(run_directory)
    with pytest.raises(EvaluationError, match="do not belong together"):
        load_for_evaluation(run_directory)
    Tokenizer.from_bytes(context_length=25).save(run_directory)
    assert load_for_evaluation(run_directory).tokenizer(["a"]).shape == (1, 24)
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        (run_directory / name).unlink(missing_ok=True)
    with pytest.raises(EvaluationError, match="no tokenizer"):
        load_for_evaluation(run_directory)


def test_weights_load_without_touching_the_random_state(run_directory: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    load_for_evaluation(run_directory)
    assert torch.equal(before, torch.get_rng_state())

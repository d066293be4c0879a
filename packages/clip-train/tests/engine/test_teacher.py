"""What a student distils from: a model wherever it is saved, or embeddings made before."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_eval.cli.main import main as clip_eval
from clip_eval.data import open_source
from clip_models import ConfigError, create_model, load_model, save_model
from clip_models.config import PreprocessConfig
from clip_models.files import save_tensors
from clip_train import Config, TrainingError, train
from clip_train.distributed.single import SingleBackend
from clip_train.engine.data_components import build_data_components
from clip_train.engine.teacher import EmbeddingTable, open_teacher


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    for name, values in sections.items():
        section = dataclasses.replace(getattr(config, name), **values)
        config = dataclasses.replace(config, **{name: section})
    return config


def losses(path: Path) -> list[float]:
    rows = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.fixture
def recipe(vit_config: Config) -> Config:
    """Two steps without augmentation, so that a teacher's embeddings are those of the files."""
    config = changed(vit_config, augment={"kind": "none", "flip": False})
    return changed(config, train={"steps": 2}, log={"every_steps": 1}, checkpoint={})


@pytest.fixture
def teacher(recipe: Config, tmp_path: Path) -> Path:
    """A model directory."""
    train(changed(recipe, train={"seed": 1}), tmp_path / "teacher", progress=False)
    return tmp_path / "teacher"


@pytest.fixture
def distilled(recipe: Config, teacher: Path) -> Config:
    tokenizer = {"kind": "directory", "path": str(teacher)}
    return changed(recipe, loss={"kind": "none", "teacher": str(teacher)}, tokenizer=tokenizer)


def test_embeddings_in_files_teach_what_their_model_does(
    distilled: Config, teacher: Path, tmp_path: Path
) -> None:
    data = distilled.data.train
    source = open_source(data)
    captions = {text for index in range(len(source)) for text in source.read(index).captions}
    (tmp_path / "captions.txt").write_text("\n".join(sorted(captions)))
    images, texts = tmp_path / "images.parquet", tmp_path / "texts.npz"
    embed = ["embed", "--model", str(teacher), "--quiet"]
    assert clip_eval([*embed, "--data", data, "--out", str(images)]) == 0
    assert clip_eval([*embed, "--texts", str(tmp_path / "captions.txt"), "--out", str(texts)]) == 0
    scale = load_model(teacher)[0].logit_scale.exp().item()
    cached = {
        "teacher": "",
        "teacher_images": str(images),
        "teacher_texts": str(texts),
        "teacher_logit_scale": scale,
    }
    train(distilled, tmp_path / "live", progress=False)
    train(changed(distilled, loss=cached), tmp_path / "cached", progress=False)
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "live"), rel=1e-5)


def save(file: Path, keys: list[str], features: Any) -> str:
    np.savez(file, keys=np.array(keys), features=np.asarray(features, dtype=np.float32))
    return str(file)


def test_a_sample_without_an_embedding_is_named(recipe: Config, tmp_path: Path) -> None:
    files = {
        "teacher_images": save(tmp_path / "images.npz", ["one"], [[1, 0]]),
        "teacher_texts": save(tmp_path / "texts.npz", ["a word"], [[1, 0]]),
    }
    with pytest.raises(TrainingError, match=r"images\.npz has no embedding of 'shapes-00000"):
        train(changed(recipe, loss=files), tmp_path / "run", progress=False)
    wide = {"teacher_texts": save(tmp_path / "wide.npz", ["a word"], [[1, 0, 0]])}
    with pytest.raises(ConfigError, match="of one teacher, got embeddings of 2 and 3 numbers"):
        train(changed(recipe, loss=files | wide), tmp_path / "other", progress=False)
    two = {"train": f"{recipe.data.train}::{recipe.data.train}"}
    with pytest.raises(ConfigError, match="has the keys of one source"):
        train(changed(recipe, loss=files, data=two), tmp_path / "other", progress=False)


def test_files_that_are_no_embeddings(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    for file, words in {
        tmp_path / "text.npz": "is not a file of `clip-eval embed`",
        tmp_path / "other.npz": "is not a file of `clip-eval embed`",
        tmp_path / "rows.csv": r"\.npz or \.parquet",
        Path(save(tmp_path / "flat.npz", ["a"], [1])): "a row of features for each of 1 keys",
        Path(save(tmp_path / "nan.npz", ["a"], [[np.nan]])): "expected finite features",
        Path(save(tmp_path / "twice.npz", ["a", "a"], [[1], [2]])): "expected every key once",
    }.items():
        with pytest.raises(ConfigError, match=words):
            EmbeddingTable(file)
    with pytest.raises(FileNotFoundError):
        EmbeddingTable(tmp_path / "gone.npz")


def test_a_teacher_may_be_saved_in_any_way(recipe: Config, tmp_path: Path) -> None:
    config = changed(recipe, model={"name": "Compact-48", "vision": {}, "text": {}})
    config = changed(config, tokenizer={"kind": "openai"})
    torch.manual_seed(3)
    model, preprocess = create_model("Compact-48"), PreprocessConfig(size=48)
    save_model(tmp_path / "directory", model, preprocess)
    save_tensors(tmp_path / "weights.safetensors", model.state_dict())
    data, backend = build_data_components(config), SingleBackend(torch.device("cpu"))

    def open_named(teacher: Path | str, name: str = "") -> Any:
        named = changed(config, loss={"teacher": str(teacher), "teacher_name": name})
        return open_teacher(dataclasses.replace(data, config=named), backend)

    for found in (
        open_named(tmp_path / "directory"),
        open_named(tmp_path / "weights.safetensors", "Compact-48"),
    ):
        assert torch.equal(found.model.text_projection, model.text_projection)
    with pytest.raises(ConfigError, match="is a file of weights; name its model with loss"):
        open_named(tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match="is a model's name, without weights"):
        open_named("RN50")

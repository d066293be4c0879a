"""The name's own preprocessing is the default, from scratch and with a file of weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from clip_models import (
    CLIP,
    CheckpointError,
    CLIPConfig,
    Preprocess,
    create_model,
    create_model_and_transforms,
    get_config,
    list_models,
    save_model,
)
from clip_models.config import PreprocessConfig, get_preprocess_config
from clip_train.config.model import ModelConfig
from clip_train.config.presets import load_config
from clip_train.engine.data_components import _preprocess
from clip_train.model.loading import default_preprocess, load_pretrained, resolve_model


@pytest.mark.parametrize("name", list_models())
def test_every_named_model_from_scratch(name: str) -> None:
    model = ModelConfig(name=name)
    assert default_preprocess(model, resolve_model(model)) == get_preprocess_config(name)
    sized = ModelConfig(name=name, vision={"image_size": 64})
    if getattr(get_config(name).vision, "kind", "") != "compact_resnet":
        expected = dataclasses.replace(get_preprocess_config(name), size=64)
        assert default_preprocess(sized, resolve_model(sized)) == expected


@pytest.mark.parametrize("name", ["CIFAR-RN", "ViT-B-32"])
def test_a_file_of_weights_takes_the_preprocessing_of_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clip_models.config import named_models

    config = get_config(name)
    text = dataclasses.replace(config.text, width=32, num_heads=1, num_layers=1, vocab_size=40)
    vision = config.vision
    if name == "ViT-B-32":
        vision = dataclasses.replace(vision, width=32, num_layers=1, num_heads=1)
    config = CLIPConfig(embed_dim=16, vision=vision, text=text)
    monkeypatch.setitem(named_models._CONFIGS, name, config)
    file = tmp_path / "w.pt"
    torch.save(create_model(name).state_dict(), file)
    model = ModelConfig(name=name, pretrained=str(file))
    ours = create_model_and_transforms(name, file).evaluate.config
    assert load_pretrained(model)[1] == ours == get_preprocess_config(name)
    changed = ModelConfig(name=name, pretrained=str(file), preprocess={"mean": [0.1, 0.2, 0.3]})
    assert load_pretrained(changed)[1].mean == (0.1, 0.2, 0.3)
    assert load_pretrained(changed)[1].std == ours.std
    stored = PreprocessConfig(size=config.vision.image_size, mean=(0.3, 0.2, 0.1))
    save_model(tmp_path / "run", CLIP(config), stored)  # a directory does say it
    known = ModelConfig(name=name, pretrained=str(tmp_path / "run"))
    assert load_pretrained(known)[1] == stored


def test_without_a_name_the_default_model_s() -> None:
    model = ModelConfig()
    assert default_preprocess(model, resolve_model(model)) == PreprocessConfig()


def test_the_recipe_of_cifar_is_the_reference_s() -> None:
    """Pixels in [-1, 1], as its `Normalize(0.5, 0.5)`, and its QuickGELU."""
    config = load_config("cifar10")
    made = resolve_model(config.model)
    found = _preprocess(config, made, None).config
    assert (found.size, found.mean, found.std) == (32, (0.5,) * 3, (0.5,) * 3)
    assert made.text.activation == "quick_gelu"
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)

    assert Preprocess(found).normalize(pixels)[0, 0, 0].tolist() == [-1.0, 1.0]


def test_a_tag_of_open_clip_is_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/other").mkdir(parents=True)
    asked: list[object] = []

    def record(config: CLIPConfig, pretrained: object) -> None:
        asked.append(pretrained)
        raise CheckpointError("no network")

    monkeypatch.setattr("clip_train.model.loading.create_model_and_transforms", record)
    for tag in ("laion2b_s34b_b79k", "runs/other"):
        with pytest.raises(CheckpointError, match="no network"):
            load_pretrained(ModelConfig(name="ViT-B-32", pretrained=tag))
    assert asked == ["hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "runs/other"]

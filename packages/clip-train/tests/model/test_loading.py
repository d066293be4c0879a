"""Named models with fields of their towers replaced."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from clip_models import ConfigError, get_config
from clip_models.config import CompactResNetConfig, ViTConfig
from clip_tokenizer import Tokenizer
from clip_train.config.model import ModelConfig, TokenizerConfig
from clip_train.config.run import Config
from clip_train.data.tokenizers import make_tokenizer
from clip_train.model.loading import load_pretrained, resolve_model
from clip_train.shapes.source import ShapesSource


def test_nothing_replaced_is_the_registered_config() -> None:
    assert resolve_model(ModelConfig(name="RN50")) == get_config("RN50")


def test_fields_and_tables_are_merged() -> None:
    settings = {"image_size": 112, "patch_reduction": {"kind": "grid", "keep_ratio": 0.25}}
    config = resolve_model(
        ModelConfig(name="ViT-B-16", vision=settings, text={"context_length": 16})
    )
    assert isinstance(config.vision, ViTConfig)
    assert config.vision.image_size == 112
    assert config.vision.patch_reduction.kind == "grid"
    assert config.vision.width == 768
    assert config.text.context_length == 16


def test_another_kind_starts_from_its_own_defaults() -> None:
    config = resolve_model(ModelConfig(name="ViT-B-16", vision={"kind": "compact_resnet"}))
    assert config.vision == CompactResNetConfig()


def test_a_new_model_starts_with_the_given_scale(tmp_path: Path) -> None:
    config = resolve_model(ModelConfig(name="Compact-32", logit_scale=50.0))
    assert config.init_logit_scale == pytest.approx(math.log(50))
    named = resolve_model(ModelConfig(name="Compact-32"))
    assert named.init_logit_scale == get_config("Compact-32").init_logit_scale
    for values in ({"logit_scale": 101.0}, {"logit_scale": 50.0, "pretrained": str(tmp_path)}):
        with pytest.raises(ConfigError, match="logit_scale is that of a new model, and at most"):
            ModelConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="logit_scale must be positive"):
        ModelConfig(logit_scale=0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"patch_sice": 16},
            "key 'model.vision.patch_sice'; did you mean 'model.vision.patch_size'",
        ),
        ({"image_size": "big"}, "model.vision.image_size must be an integer"),
        ({"patch_reduction": {"keep_ratio": 1.5}}, "keep_ratio must be in"),
    ],
)
def test_wrong_fields_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_model(ModelConfig(name="ViT-B-16", vision=settings))


def test_pretrained_needs_weights(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"")
    for pretrained, message in (
        ("ViT-B-32", "is a model's name, without weights; give the name as model.name"),
        (str(tmp_path / "weights.pt"), "is a file of weights; name its model with model.name"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_pretrained(ModelConfig(pretrained=pretrained))


def test_a_new_model_takes_the_context_of_its_tokenizer_unless_one_is_given(tmp_path: Path) -> None:
    Tokenizer.from_bytes(context_length=40).save(tmp_path)
    saved, source = (
        TokenizerConfig(kind="directory", path=str(tmp_path)),
        ShapesSource.of("shapes:8"),
    )
    assert make_tokenizer(Config(tokenizer=saved), source, 16).context_length == 40
    given = Config(tokenizer=saved, model=ModelConfig(text={"context_length": 16}))
    assert make_tokenizer(given, source, 16).context_length == 16

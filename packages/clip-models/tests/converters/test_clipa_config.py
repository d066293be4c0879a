"""CLIPA's JSON, by the files it ships: numbers as in its repository."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from clip_models import ConfigError, get_config
from clip_models.converters.clipa_config import from_clipa
from clip_models.files.config_files import read_config_file

LARGE = {"image_size": 224, "layers": 24, "width": 1024}
HUGE = {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14}
TEXT = {"vocab_size": 49408, "width": 768, "heads": 12, "layers": 12}
HUGE_TEXT = {"vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24}
BIG_VISION = {
    "gelu_approximate": "tanh",
    "ln_pre": False,
    "pool_style": "big_vision_gap",
    "global_average_pool": True,
}
BIG_VISION_TEXT = {
    "context_length": 32,
    "vocab_size": 32000,
    "bert_tokenizer": True,
    "vocab_path": "gs://vit_models/lit/bert/uncased_L-12_H-768_A-12/vocab.txt",
    "gelu_approximate": "tanh",
    "pool_style": "big_vision_last",
    "attention_mask": False,
}
GAP = {"global_average_pool": True}
SYNTAX = {"text_mask": "syntax"}


def clipa(embed_dim: int, vision: dict, text: dict) -> dict:
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "ViT-B-16-CL16",
            clipa(
                512,
                {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
                {"context_length": 16, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
            ),
        ),
        (
            "ViT-L-16-CL8-Syntax-GAP",
            clipa(768, LARGE | {"patch_size": 16} | GAP, TEXT | {"context_length": 8} | SYNTAX),
        ),
        (
            "ViT-L-16-CL16-GAP",
            clipa(768, LARGE | {"patch_size": 16} | GAP, TEXT | {"context_length": 16}),
        ),
        (
            "ViT-L-16-CL32-GAP",
            clipa(768, LARGE | {"patch_size": 16} | GAP, TEXT | {"context_length": 32}),
        ),
        (
            "ViT-H-14-CL8-SyntaxMask-GAP",
            clipa(1024, HUGE | GAP, HUGE_TEXT | {"context_length": 8} | SYNTAX),
        ),
        (
            "ViT-L-14-CL32-GAP-BigVision",
            clipa(768, LARGE | {"patch_size": 14} | BIG_VISION, TEXT | BIG_VISION_TEXT),
        ),
        (
            "ViT-H-14-CL32-GAP-BigVision",
            clipa(1024, HUGE | BIG_VISION, HUGE_TEXT | BIG_VISION_TEXT),
        ),
    ],
)
def test_named_configs_are_those_of_clipa(name: str, values: dict) -> None:
    assert from_clipa(values) == get_config(name)


def test_a_file_of_clipa_is_read(tmp_path: Path) -> None:
    values = clipa(768, LARGE | {"patch_size": 14} | BIG_VISION, TEXT | BIG_VISION_TEXT)
    (tmp_path / "model.json").write_text(json.dumps(values))
    config, _ = read_config_file(tmp_path / "model.json")
    assert config == get_config("ViT-L-14-CL32-GAP-BigVision")


def test_poolings() -> None:
    base = {"layers": 2, "width": 64}
    cases = [
        ({}, ("class_token", False)),
        ({"pool_style": "big_vision_tok"}, ("class_token", False)),
        (GAP, ("average", True)),
        (GAP | {"pool_style": "big_vision_gap"}, ("patch_average", True)),
    ]
    for pools, expected in cases:
        vision = from_clipa(clipa(64, base | pools, {})).vision
        assert (vision.readout, vision.norm_after_readout) == expected
    text = from_clipa(clipa(64, base, {"pool_style": "big_vision_tok"})).text
    assert (text.readout, text.causal) == ("first", True)


def test_fixed_positions() -> None:
    config = from_clipa(clipa(64, {"pos_embed": "sin_cos_2d"}, {}))
    learned = dataclasses.replace(config.vision, position="learned")
    assert config.vision.position == "sin_cos"
    assert learned == from_clipa(clipa(64, {"pos_embed": "learnable"}, {})).vision


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ({"pool_style": "gap"}, {}, "pool_style = 'gap' with global_average_pool = False"),
        ({"pool_style": "big_vision_gap"}, {}, "'big_vision_gap' with global_average_pool = False"),
        (
            GAP | {"pool_style": "big_vision_tok"},
            {},
            "'big_vision_tok' with global",
        ),
        ({"input_patchnorm": True}, {}, "input_patchnorm = true is not computed here"),
        ({}, {"pool_style": "last"}, "text_cfg.pool_style = 'last' is unknown"),
        ({"witdh": 3}, {}, "unknown key 'vision_cfg.witdh'; did you mean 'vision_cfg.width'"),
    ],
)
def test_what_is_wrong_is_named(vision: dict, text: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_clipa(clipa(64, vision, text))


@pytest.mark.parametrize("name", ["vision_cfg", "text_cfg"])
def test_sections_are_tables(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a table, got 3"):
        from_clipa({"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}, name: 3})

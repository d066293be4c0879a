"""Configs from plain values: every wrong key and type is named, every right one survives."""

from __future__ import annotations

import json

import pytest
from clip_models import CLIPConfig, ConfigError, get_config, list_models
from clip_models.config import nearest

GOOD = {
    "embed_dim": 8,
    "vision": {"kind": "vit", "image_size": 32, "patch_size": 8},
    "text": {"width": 16, "num_heads": 2},
}


def changed(**changes: object) -> dict[str, object]:
    """GOOD with dotted keys (`vision__width`) changed."""
    values = json.loads(json.dumps(GOOD))
    for key, value in changes.items():
        *path, last = key.split("__")
        table = values
        for part in path:
            table = table[part]
        table[last] = value
    return values


@pytest.mark.parametrize("name", list_models())
def test_round_trip_through_json(name: str) -> None:
    config = get_config(name)
    assert CLIPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(embed_dims=8), "unknown key 'embed_dims'; did you mean 'embed_dim'?"),
        (changed(vision__widht=8), "unknown key 'vision.widht'; did you mean 'vision.width'?"),
        (changed(vision__kind="vitt"), "vision.kind is 'vitt'; did you mean 'vit'?"),
        (changed(vision__width="768"), "vision.width must be an integer, got '768' (str)"),
        (changed(vision__width=7.5), "vision.width must be an integer, got 7.5 (float)"),
        (changed(vision__width=True), "vision.width must be an integer, got True (bool)"),
        (changed(text__activation="relu"), "text.activation must be one of 'gelu'"),
        (changed(text=3), "text must be a table, got 3 (int)"),
        (changed(vision__patch_size=40), "vision.image_size must be at least patch_size"),
        (changed(vision__num_heads=[1, 2]), "vision.num_heads must be one integer or one for each"),
        (changed(vision__num_heads="2"), "vision.num_heads must be an integer or a list, got '2'"),
        (changed(vision__mlp_width=0), "vision.mlp_width must be a positive integer or a tu"),
        (
            changed(vision__patch_reduction={"keep_ratio": 1.5}),
            "vision.patch_reduction.keep_ratio must be in (0, 1], got 1.5",
        ),
        (
            changed(text__pooling={"name": "dtp", "after_layer": 13}),
            "text.pooling.after_layer must be in 0 … 12 and must",
        ),
        (changed(text__pooling={"name": "dtp", "after_layer": 1, "args": 3}), "args must be a tab"),
        (changed(vision__class_token=False), "readout 'class_token' needs class_token = true"),
        (changed(vision__projection="none"), "vision.projection 'none' needs vision.width = embed"),
        (changed(text__num_heads=3), "text.width must be a multiple of num_heads"),
        (
            changed(vision={"kind": "modified_resnet", "layers": [1, 2]}),
            "vision.layers must have 4 entries, got 2",
        ),
        (
            changed(vision={"kind": "modified_resnet", "layers": [1, 2, "3", 4]}),
            "vision.layers[2] must be an integer",
        ),
        (
            changed(vision={"kind": "modified_resnet", "layers": 5}),
            "vision.layers must be a list",
        ),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CLIPConfig.from_dict(values)
    assert message in str(caught.value)


def test_sizes_per_layer_and_nested_tables_survive() -> None:
    values = changed(
        vision__num_layers=3,
        vision__num_heads=[12, 6, 3],
        vision__mlp_width=[64, 32, 16],
        vision__head_width=64,
        vision__pooling={
            "name": "dtp",
            "after_layer": 1,
            "args": {"kind": "fixed", "grid": [4, 4]},
        },
        vision__patch_reduction={"kind": "block", "keep_ratio": 0.25},
        text__tokenizer={"name": "bert-base-uncased", "options": {"strip_sep_token": True}},
    )
    config = CLIPConfig.from_dict(values)
    assert config.vision.layers() == ((12, 64, 64), (6, 64, 32), (3, 64, 16))
    assert config.vision.pooling.args == {"kind": "fixed", "grid": [4, 4]}
    assert CLIPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_missing_keys_are_named() -> None:
    with pytest.raises(ConfigError, match="'embed_dim' is missing"):
        CLIPConfig.from_dict({key: GOOD[key] for key in ("vision", "text")})


def test_whole_numbers_are_numbers() -> None:
    assert CLIPConfig.from_dict(changed(init_logit_scale=2)).init_logit_scale == 2.0


def test_none_is_left_out_and_comes_back() -> None:
    config = CLIPConfig.from_dict(GOOD)
    assert config.init_logit_bias is None
    assert "init_logit_bias" not in config.to_dict()


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown model 'ViT-B32'; did you mean 'ViT-B-32'"):
        get_config("ViT-B32")


def test_many_names_are_not_a_hint() -> None:
    few, many = [f"name{n}" for n in range(20)], [f"name{n}" for n in range(21)]
    assert nearest("zzzz", few).startswith("; known: name0, name1, ")
    assert (
        nearest("zzzz", many, "`clip-models list`") == "; `clip-models list` lists the 21 there are"
    )
    assert nearest("nam20", many) == "; did you mean 'name20'?"
    with pytest.raises(ConfigError) as error:
        get_config("zzzz")
    assert len(str(error.value)) < 100

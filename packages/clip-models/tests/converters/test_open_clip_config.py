"""open_clip's JSON: each of its configs is read as our registered model, or refused by name."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
from clip_models import ConfigError, get_config, list_models
from clip_models.config import PoolingConfig
from clip_models.converters import from_clipa, from_hugging_face_config, to_hugging_face_config
from clip_models.converters.open_clip_config import from_open_clip, to_open_clip
from clip_models.converters.timm_siglip import _IMAGE_SIZES

FILES = sorted((Path(open_clip.__file__).parent / "model_configs").glob("*.json"))
PEER = {path.stem: json.loads(path.read_text()) for path in FILES}
# Towers of other architectures: timm's but SigLIP's, Hugging Face text, captioners.
OTHER = ("EVA", "MobileCLIP", "PE-", "ViTamin", "coca", "convnext", "mt5", "nllb", "roberta")
OTHER = (*OTHER, "swin", "vit_", "xlm")
OURS = [name for name in PEER if not name.startswith(OTHER)]


@pytest.mark.parametrize("name", OURS)
def test_named_configs_are_those_of_open_clip(name: str) -> None:
    assert get_config(name) == from_open_clip(PEER[name])


def test_nothing_is_missing() -> None:
    assert len(OURS) >= 75
    assert set(OURS) <= set(list_models())


@pytest.mark.parametrize("name", [name for name in PEER if name.startswith(OTHER)])
def test_other_architectures_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"not computed here|unknown key"):
        from_open_clip(PEER[name])


@pytest.mark.parametrize("name", OURS)
def test_what_is_written_is_read_as_the_same_model(name: str) -> None:
    written = json.loads(json.dumps(to_open_clip(get_config(name))))
    assert from_open_clip({"model_cfg": written, "preprocess_cfg": {}}) == get_config(name)
    vision, text = written["vision_cfg"], written["text_cfg"]
    open_clip.model.CLIPVisionCfg(**vision)  # every key is one of open_clip's
    open_clip.model.CLIPTextCfg(**text)


def changed(section: str, **values: object) -> dict:
    config = copy.deepcopy(PEER["ViT-B-32"])
    (config[section] if section else config).update(values)
    return config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed("vision_cfg", widht=3), "'vision_cfg.widht'; did you mean 'vision_cfg.width'"),
        (changed("text_cfg", head=3), "'text_cfg.head'; did you mean 'text_cfg.heads'"),
        (changed("", embed=3), "unknown key 'embed'; did you mean 'embed_dim'"),
        (changed("vision_cfg", qk_norm=True), "vision_cfg.qk_norm = True is not computed here"),
        (changed("vision_cfg", pool_type="none"), "pool_type = 'none' is not computed here"),
        (changed("vision_cfg", patch_size=[16, 8]), r"\[16, 8\] is not square"),
        (changed("vision_cfg", width="768"), "impossible value|must be an integer"),
        (changed("text_cfg", context_length="77"), "context_length must be a positive integer"),
        (changed("", vision_cfg=3), "vision_cfg must be a table, got 3"),
        ({"vision_cfg": {}, "text_cfg": {}}, "key 'embed_dim' is missing"),
        (changed("vision_cfg", head_width=0), "impossible value: integer division"),
        (changed("vision_cfg", layers=[1, 2, 3]), "impossible value: not enough values"),
        (changed("text_cfg", norm_kwargs={"bias": False}), "norm_kwargs = .* only 'eps' is"),
        (changed("vision_cfg", act_kwargs={"inplace": True}), "act_kwargs = .* only 'approximate'"),
        (changed("vision_cfg", act_kwargs={"approximate": "x"}), "approximate = 'x' is not comp"),
    ],
)
def test_what_is_wrong_is_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_open_clip(values)


@pytest.mark.parametrize("read", [from_open_clip, from_clipa, from_hugging_face_config])
def test_a_config_is_a_table(read: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigError, match=r"config must be a table, got \[\] \(list\)"):
        read([])


def test_settings_of_no_named_model() -> None:
    config = from_open_clip(
        {
            "embed_dim": 8,
            "init_logit_scale": 1,
            "vision_cfg": {
                "image_size": [32, 32],
                "patch_dropout": 0.25,
                "ls_init_value": 1e-4,
                "pos_embed_type": "sin_cos_2d",
                "output_tokens": False,
                "attentional_pool": False,
            },
            "text_cfg": {"pool_type": "first", "norm_kwargs": {"eps": 1e-6}, "ls_init_value": 0.1},
        }
    )
    assert config.init_logit_scale == 1.0
    assert config.vision.image_size == 32
    assert config.vision.patch_reduction.keep_ratio == 0.75
    assert config.vision.layer_scale_init == 1e-4
    assert config.vision.position == "sin_cos"
    assert (config.text.readout, config.text.layer_norm_eps) == ("first", 1e-6)
    again = from_open_clip(to_open_clip(config))
    reduced = dataclasses.replace(config.vision, patch_reduction=None)
    assert again == dataclasses.replace(config, vision=reduced)


@pytest.mark.parametrize(
    ("tower", "change", "message"),
    [
        ("vision", {"num_heads": (12,) * 11 + (6,), "head_width": 64}, r"layer 11 is \(6, 64, "),
        ("vision", {"class_position": False}, r"model: vision\.class_position is False, not True"),
        ("vision", {"readout": "average"}, r"vision\.readout is average, not patch_average"),
        ("text", {"mlp_width": (100,) * 11 + (99,)}, r"text\.layer 11 is \(8, 64, 99\), not "),
        ("text", {"num_heads": (8,) * 11 + (4,)}, r"text\.layer 11 is \(4, 128, "),
        (
            "text",
            {"pooling": PoolingConfig(name="dtp", after_layer=1)},
            r"text\.pooling\.name is",
        ),
    ],
)
def test_models_that_open_clip_lacks_are_named(
    tower: str, change: dict[str, object], message: str
) -> None:
    config = get_config("ViT-B-32")
    config = dataclasses.replace(
        config, **{tower: dataclasses.replace(getattr(config, tower), **change)}
    )
    with pytest.raises(ConfigError, match=message):
        to_open_clip(config)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-SigLIP"])
def test_equal_sizes_may_be_given_otherwise(name: str) -> None:
    config = get_config(name)
    same = {"head_width": 64, "mlp_width": (3072,) * 12, "num_heads": (12,) * 12, "mlp_ratio": 2.0}
    spelled = dataclasses.replace(config, vision=dataclasses.replace(config.vision, **same))
    assert to_open_clip(spelled) == to_open_clip(config)
    text = dataclasses.replace(config.text, mlp_width=1001)
    written = to_open_clip(dataclasses.replace(config, text=text))
    assert from_open_clip(written).text.layers() == text.layers()


def test_siglip_towers_are_those_of_timm() -> None:
    theirs = {name for name in timm.list_models("vit_*_siglip_*") if "_gap_" not in name}
    ours = {f"vit_{tower}_siglip_{size}" for tower, sizes in _IMAGE_SIZES.items() for size in sizes}
    assert ours == theirs


def test_towers_that_open_clip_lacks() -> None:
    with pytest.raises(ConfigError, match="of kind 'compact_resnet'; of ours it has 'vit' and"):
        to_open_clip(get_config("Compact-32"))
    small = get_config("ViT-B-16-SigLIP")
    vision = dataclasses.replace(small.vision, map_num_heads=6)
    with pytest.raises(ConfigError, match=r"vision\.map_num_heads is 6, not None"):
        to_open_clip(dataclasses.replace(small, vision=vision))
    with pytest.raises(ConfigError, match=r"vision\.map_num_heads is 6, not None"):
        to_hugging_face_config(dataclasses.replace(small, vision=vision))
    vision = dataclasses.replace(small.vision, image_size=320)
    with pytest.raises(ConfigError, match="no SigLIP tower vit_base_patch16 for images of 320"):
        to_open_clip(dataclasses.replace(small, vision=vision))
    vision = dataclasses.replace(small.vision, num_layers=2)
    with pytest.raises(ConfigError, match="no SigLIP tower with width"):
        to_open_clip(dataclasses.replace(small, vision=vision))

"""A model that was cut in place has a config again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from clip_models import (
    CLIP,
    CLIPConfig,
    ConfigError,
    get_config,
    load_model,
    save_model,
    save_pretrained,
)
from clip_models.config import CompactResNetConfig, PreprocessConfig, TextConfig, ViTConfig
from clip_models.model import infer_config

SIZES = {"width": 32, "num_layers": 3, "num_heads": 4}
CONFIG = CLIPConfig(
    embed_dim=16,
    vision=ViTConfig(image_size=32, patch_size=8, **SIZES),
    text=TextConfig(context_length=8, vocab_size=20, **SIZES),
)
TOKENS = torch.tensor([[1, 2, 19, 0, 0, 0, 0, 0], [1, 2, 3, 4, 19, 0, 0, 0]])


def cut(config: CLIPConfig) -> CLIP:
    """A model of `config` that still says it is the whole one."""
    model = CLIP(config).eval()
    model.config = CONFIG
    return model


@pytest.mark.parametrize(
    ("vision", "text"),
    [
        ({}, {}),
        ({"mlp_width": (128, 40, 64)}, {"num_heads": (4, 2, 1), "head_width": 8}),
        ({"num_heads": 2, "head_width": 8, "num_layers": 2}, {"num_layers": 1, "mlp_width": 24}),
        ({"width": 24, "head_width": 8}, {"width": 20, "num_heads": 2, "head_width": 8}),
        ({"num_heads": 2}, {"num_heads": (4, 2, 4), "head_width": (8, 16, 4)}),
    ],
)
def test_the_config_of_a_subnet(vision: dict[str, object], text: dict[str, object]) -> None:
    config = dataclasses.replace(
        CONFIG,
        vision=dataclasses.replace(CONFIG.vision, **vision),
        text=dataclasses.replace(CONFIG.text, **text),
    )
    model = cut(config)
    measured = infer_config(model)
    assert [measured.vision.layers(), measured.text.layers()] == [
        config.vision.layers(),
        config.text.layers(),
    ]
    plain = CLIP(CLIPConfig.from_dict(json.loads(json.dumps(measured.to_dict())))).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    for ours, theirs in zip(plain(images, TOKENS)[:2], model(images, TOKENS)[:2], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["Compact-32", "ViT-B-32", "ViT-B-16-SigLIP", "RN50"])
def test_a_whole_model_keeps_its_config(name: str) -> None:
    with torch.device("meta"):
        assert infer_config(CLIP(get_config(name))) == get_config(name)


def test_a_cut_last_layer_leaves_the_map_readout_as_it_was() -> None:
    """SigLIP's pooling has the last layer's sizes; it keeps them when that layer loses some."""
    change = {"readout": "map", "class_token": False, "head_width": 8}
    whole = dataclasses.replace(CONFIG, vision=dataclasses.replace(CONFIG.vision, **change))
    sizes = {"num_heads": (4, 4, 2), "mlp_width": (128, 128, 40)}
    kept = {"map_num_heads": 4, "map_mlp_width": 128}
    small = dataclasses.replace(whole, vision=dataclasses.replace(whole.vision, **sizes, **kept))
    model = CLIP(small).eval()
    model.config = whole
    assert infer_config(model) == small
    plain = CLIP(infer_config(model)).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain.encode_image(images), model.encode_image(images))
    unaware = dataclasses.replace(small, vision=dataclasses.replace(small.vision, map_num_heads=2))
    other = CLIP(unaware).eval()
    other.load_state_dict(model.state_dict())  # fits, and computes something else
    assert not torch.allclose(other.encode_image(images), model.encode_image(images), atol=1e-4)


@pytest.mark.parametrize("save", [save_model, save_pretrained])
def test_a_cut_model_is_saved_with_the_sizes_it_has(
    save: Callable[..., object], tmp_path: Path
) -> None:
    sizes = {"num_heads": (4, 2, 1), "head_width": 8, "mlp_width": 24}
    model = cut(
        dataclasses.replace(
            CONFIG,
            vision=dataclasses.replace(CONFIG.vision, **sizes),
            text=dataclasses.replace(CONFIG.text, num_layers=2),
        )
    )
    save(tmp_path, model, PreprocessConfig(size=32))
    loaded, images = load_model(tmp_path)[0], torch.randn(2, 3, 32, 32)
    for ours, theirs in zip(loaded(images, TOKENS)[:2], model(images, TOKENS)[:2], strict=True):
        assert torch.equal(ours, theirs)


def test_other_cuts_are_named() -> None:
    model = cut(CONFIG)
    model.text_projection = torch.nn.Parameter(torch.zeros(32, 8))
    with pytest.raises(ConfigError, match=r"text_projection is \(32, 8\), expected \(32, 16\)"):
        infer_config(model)
    towers = [CompactResNetConfig(image_size=32, widths=widths) for widths in ((4, 8), (4, 6))]
    model = CLIP(dataclasses.replace(CONFIG, vision=towers[1]))
    model.config = dataclasses.replace(CONFIG, vision=towers[0])
    with pytest.raises(ConfigError, match=r"visual.proj.weight is \(16, 6\), expected \(16, 8\)"):
        infer_config(model)

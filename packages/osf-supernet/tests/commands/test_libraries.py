"""Models of libraries by name, with inputs that fit."""

from __future__ import annotations

import pytest
import torch
from osf_supernet.commands.libraries import build_model
from osf_supernet.subnets.comparison import run
from torch import Tensor


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("timm:test_vit", Tensor),
        ("open_clip:ViT-S-32-alt", tuple),
        ("clip-models:Compact-32", tuple),
        ("torchvision:resnet18", Tensor),
    ],
)
def test_models_of_libraries_come_with_inputs_that_fit(name, keys):
    model, inputs = build_model(name)
    assert isinstance(inputs, keys)
    run(model, inputs)


def test_a_transformers_folder_is_a_model(tmp_path):
    from transformers.models.clip import CLIPConfig, CLIPModel
    from transformers.models.t5 import T5Config, T5ForConditionalGeneration

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"intermediate_size": 24, "vocab_size": 50, "eos_token_id": 49}
    vision = small | {"intermediate_size": 24, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    model, inputs = build_model(f"transformers:{tmp_path / 'clip'}")
    assert set(inputs) == {"pixel_values", "input_ids"}
    assert run(model, inputs)[0].shape == (2, 2)
    T5ForConditionalGeneration(
        T5Config(d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=20)
    ).save_pretrained(tmp_path / "t5")
    model, inputs = build_model(f"transformers:{tmp_path / 't5'}")
    assert inputs["use_cache"] is False
    run(model, inputs)


def test_a_saved_clip_is_built_with_its_weights(tmp_path):
    import clip_models

    config = clip_models.CLIPConfig(
        embed_dim=8,
        vision=clip_models.config.ViTConfig(
            image_size=16, patch_size=8, width=16, num_layers=1, num_heads=2
        ),
        text=clip_models.config.TextConfig(
            context_length=6, vocab_size=32, width=16, num_layers=1, num_heads=2
        ),
    )
    saved = clip_models.CLIP(config)
    clip_models.save_model(tmp_path, saved, clip_models.config.PreprocessConfig(size=16))
    model, (images, texts) = build_model(f"clip-models:{tmp_path}")
    for name, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert model(images, texts).image_features.shape == (len(images), 8)

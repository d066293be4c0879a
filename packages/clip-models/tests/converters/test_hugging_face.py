"""transformers' CLIP and SigLIP: the same features and the same bits, both ways."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from clip_models import CLIP, CheckpointError, CLIPConfig, ConfigError, get_config
from clip_models.converters.dialects import from_native, to_native
from clip_models.converters.hugging_face_config import (
    from_hugging_face_config,
    to_hugging_face_config,
)
from torch import Tensor, nn

with warnings.catch_warnings():  # of the modules that transformers imports
    warnings.simplefilter("ignore")
    from transformers import CLIPConfig as TheirCLIPConfig
    from transformers import CLIPModel, SiglipConfig, SiglipModel

CLIP_TINY: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 24,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-3,
    },
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 9,
        "bos_token_id": 48,
        "eos_token_id": 49,
    },
    "projection_dim": 12,
}
SIGLIP_TINY: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 24,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 30,
        "patch_size": 7,
    },
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 9,
        "projection_size": 24,
        "bos_token_id": 48,
        "eos_token_id": 49,
    },
}


def changed(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The config with other values: `text_config__vocab_size=3` is one of the text's."""
    values = {**values, **{key: dict(values[key]) for key in ("vision_config", "text_config")}}
    for path, value in changes.items():
        *section, key = path.split("__")
        (values[section[0]] if section else values)[key] = value
    return values


CASES = {
    "clip": ("clip", CLIP_TINY),
    "clip, one activation for both": (
        "clip",
        changed(CLIP_TINY, vision_config__hidden_act="gelu_new"),
    ),
    "clip, end token as it was": ("clip", changed(CLIP_TINY, text_config__eos_token_id=2)),
    "clip, end token in the middle": ("clip", changed(CLIP_TINY, text_config__eos_token_id=7)),
    "siglip": ("siglip", SIGLIP_TINY),
    "siglip, as wide as its layers": (
        "siglip",
        changed(SIGLIP_TINY, text_config__hidden_size=24, text_config__projection_size=None),
    ),
}


def build(kind: str, values: dict[str, Any]) -> nn.Module:
    """A model of transformers with weights that leave nothing at zero or one."""
    torch.manual_seed(0)
    if kind == "clip":
        model = CLIPModel(TheirCLIPConfig(**values))
    else:
        model = SiglipModel(SiglipConfig(**values))
    return randomized(model)


def randomized(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def their_features(model: nn.Module, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    outputs = model.get_image_features(images), model.get_text_features(tokens)
    image, text = (getattr(output, "pooler_output", output) for output in outputs)
    return image, text


def inputs(config: CLIPConfig, batch: int = 5) -> tuple[Tensor, Tensor]:
    size = config.vision.image_size
    text = config.text
    tokens = torch.randint(3, text.vocab_size, (batch, text.context_length))
    end = text.vocab_size - 1 if text.eot_token_id is None else text.eot_token_id
    tokens[tokens == end] = 1
    places = torch.arange(batch) % (text.context_length - 1) + 1
    tokens[torch.arange(batch), places] = end
    return torch.randn(batch, 3, size, size), tokens


def assert_same_features(model: CLIP, theirs: nn.Module) -> None:
    images, tokens = inputs(model.config)
    with torch.no_grad():
        image, text = their_features(theirs, images, tokens)
        ours = model.eval().encode_image(images), model.encode_text(tokens)
    for mine, other in zip(ours, (image, text), strict=True):
        assert other.std() > 0.01
        scale = other.norm(dim=-1, keepdim=True).clamp(min=1)
        torch.testing.assert_close(mine / scale, other / scale, atol=1e-5, rtol=0)


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype
        for key in theirs
    )


@pytest.mark.parametrize("case", CASES)
def test_features_of_read_models_are_equal(case: str) -> None:
    theirs = build(*CASES[case])
    config = from_hugging_face_config(theirs.config.to_dict())
    model = CLIP(config)
    native = to_native(theirs.state_dict(), config)
    model.load_state_dict(native)
    assert_same_features(model, theirs)
    assert same_bits(from_native(native, config, "hugging-face"), theirs.state_dict())
    logits = theirs(*reversed(inputs(config))).logits_per_image
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("case", CASES)
def test_features_of_written_models_are_equal(case: str) -> None:
    kind, values = CASES[case]
    config = from_hugging_face_config({"model_type": kind, **values})
    torch.manual_seed(1)
    model = randomized(CLIP(config))
    assert isinstance(model, CLIP)
    written = to_hugging_face_config(config)
    theirs = build(kind, {key: written[key] for key in written if key != "architectures"})
    foreign = from_native(model.state_dict(), config, "hugging-face")
    theirs.load_state_dict(foreign)
    assert_same_features(model, theirs)
    assert same_bits(to_native(foreign, config), model.state_dict())
    assert from_hugging_face_config(written) == config


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_logits_agree(kind: str) -> None:
    theirs = build(*CASES[kind])
    config = from_hugging_face_config(theirs.config.to_dict())
    model = CLIP(config).eval()
    model.load_state_dict(to_native(theirs.state_dict(), config))
    images, tokens = inputs(config)
    with torch.no_grad():
        out = model(images, tokens)
        logits = out.logit_scale * out.image_features @ out.text_features.T
        if out.logit_bias is not None:
            logits = logits + out.logit_bias
        expected = theirs(input_ids=tokens, pixel_values=images).logits_per_image
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_published_base_sizes_agree(kind: str) -> None:
    """CLIP ViT-B/32 and SigLIP B/16 as transformers builds them by default."""
    theirs = build(kind, {} if kind == "clip" else {"text_config": {"eos_token_id": None}})
    config = from_hugging_face_config(theirs.config.to_dict())
    model = CLIP(config)
    model.load_state_dict(to_native(theirs.state_dict(), config))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert_same_features(model, theirs)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_missing_keys_have_the_defaults_of_transformers(kind: str) -> None:
    """Published files leave out what is a default of transformers."""
    full = {"clip": TheirCLIPConfig, "siglip": SiglipConfig}[kind]().to_dict()
    silent = {"model_type": kind, "text_config": None, "vision_config": {}}
    assert from_hugging_face_config(silent) == from_hugging_face_config(full)


def test_position_ids_of_older_files_are_dropped() -> None:
    theirs = build(*CASES["clip"])
    config = from_hugging_face_config(theirs.config.to_dict())
    state = dict(theirs.state_dict())
    state["text_model.embeddings.position_ids"] = torch.arange(9)[None]
    assert same_bits(to_native(state, config), to_native(theirs.state_dict(), config))


def test_half_precision_stays() -> None:
    theirs = build(*CASES["siglip"]).to(torch.bfloat16)
    config = from_hugging_face_config(theirs.config.to_dict())
    native = to_native(theirs.state_dict(), config)
    assert {value.dtype for value in native.values()} == {torch.bfloat16}
    assert same_bits(from_native(native, config, "hugging-face"), theirs.state_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, "model_type must be 'clip', 'siglip' or 'siglip2', got 'bert'"),
        ({"vision_config__hidden_act": "relu"}, "hidden_act must be one of quick_gelu, .*'relu'"),
        ({"vision_config__num_channels": 4}, "num_channels must be 3, got 4"),
        ({"vision_config__image_size": [32, 16]}, "image_size must be an integer"),
        ({"text_config__vocab_size": "many"}, "vocab_size must be an integer, got 'many'"),
        ({"text_config__layer_norm_eps": None}, "layer_norm_eps must be a number, got None"),
        ({"projection_dim": None}, "projection_dim must be an integer, got None"),
    ],
)
def test_what_cannot_be_read_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_hugging_face_config(changed({"model_type": "clip", **CLIP_TINY}, **changes))


def test_a_tower_that_is_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="vision_config must be a table, got 3"):
        from_hugging_face_config({"model_type": "clip", "vision_config": 3})


def test_of_a_tower_given_twice_transformers_reads_the_same() -> None:
    twice = changed(CLIP_TINY, vision_config_dict={"hidden_size": 48}, text_config_dict=None)
    theirs = TheirCLIPConfig(**copy.deepcopy(twice)).to_dict()
    assert theirs["vision_config"]["hidden_size"] == 48
    assert theirs["vision_config"]["patch_size"] == 32  # a default goes before the other table
    assert from_hugging_face_config({"model_type": "clip", **twice}) == (
        from_hugging_face_config(theirs)
    )
    twice = changed(SIGLIP_TINY, text_config_dict={"hidden_size": 48}, vision_config_dict={})
    assert from_hugging_face_config({"model_type": "siglip", **twice}) == (
        from_hugging_face_config({"model_type": "siglip", **SIGLIP_TINY})
    )


def test_siglip_without_its_head_is_refused() -> None:
    values = changed({"model_type": "siglip", **SIGLIP_TINY}, vision_config__vision_use_head=False)
    with pytest.raises(ConfigError, match="vision_use_head must be true"):
        from_hugging_face_config(values)


def test_models_that_transformers_lacks_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="no CLIP with a modified_resnet tower"):
        to_hugging_face_config(get_config("RN50"))
    values = CLIPConfig.from_dict(
        {"embed_dim": 8, "vision": {"kind": "vit", "pre_norm": False}, "text": {}}
    )
    with pytest.raises(
        ConfigError, match=r"clip model cannot be this model: vision\.pre_norm is F"
    ):
        to_hugging_face_config(values)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14-336", "ViT-bigG-14"])
def test_registered_vits_can_be_written(name: str) -> None:
    values = to_hugging_face_config(get_config(name))
    assert values["model_type"] == "clip"
    assert from_hugging_face_config(values) == get_config(name)


def test_missing_and_surplus_tensors_are_named() -> None:
    theirs = build(*CASES["clip"])
    config = from_hugging_face_config(theirs.config.to_dict())
    state = dict(theirs.state_dict())
    lost = state.pop("vision_model.encoder.layers.1.self_attn.k_proj.weight")
    with pytest.raises(CheckpointError, match=r"has .*1.self_attn.q_proj.weight but no .*k_proj"):
        to_native(state, config)
    state["vision_model.encoder.layers.1.self_attn.k_proj.weight"] = lost
    state["vision_model.extra"] = lost
    with pytest.raises(CheckpointError, match=r"unknown tensors: vision_model\.extra"):
        to_native(state, config)

"""open_clip's models and ours compute the same features and gradients from the same weights."""

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
import torch
from clip_models import CLIP, CLIPConfig, get_config, list_models
from clip_models.converters.dialects import to_native
from clip_models.converters.open_clip_config import from_open_clip
from open_clip.model import CLIP as PeerCLIP
from open_clip.model import CustomTextCLIP
from torch import Tensor, nn

FILES = sorted((Path(open_clip.__file__).parent / "model_configs").glob("*.json"))
PEER = {path.stem: json.loads(path.read_text()) for path in FILES}
OURS = [name for name in PEER if name in list_models()]
SIGLIP = [name for name in OURS if "SigLIP" in name]


def shrunk(name: str) -> dict[str, Any]:
    """The config with heads of 8 channels, two layers, few patches and words; all else as it is."""
    config = copy.deepcopy(PEER[name])
    vision, text = config["vision_cfg"], config["text_cfg"]
    text |= {"vocab_size": 60, "width": 8 * text["heads"], "layers": 2}
    config["embed_dim"] = 24
    if isinstance(vision["layers"], list):
        vision |= {"layers": [1, 2, 1, 1], "width": vision["width"] // 8, "image_size": 64}
        vision["head_width"] = 8
        return config
    heads = vision["width"] // vision.get("head_width", 64)
    patch = vision["patch_size"] // 2
    vision |= {"width": 8 * heads, "head_width": 8, "layers": 2, "patch_size": patch}
    vision["image_size"] = 4 * patch + vision["image_size"] % patch
    return config


def randomized(peer: nn.Module) -> nn.Module:
    """Every weight and statistic drawn anew, so that no zero or one hides a mistake."""
    generator = torch.Generator().manual_seed(1)
    for key, value in peer.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith("running_var"):
            value.copy_(noise.abs() + 0.5)
        elif value.ndim > 1:
            value.copy_(noise * value[0].numel() ** -0.5)
        elif key.endswith("weight"):
            value.copy_(1 + 0.1 * noise)
        elif value.ndim == 1:
            value.copy_(0.1 * noise)
    return peer.eval()


def build_peer(values: dict[str, Any]) -> nn.Module:
    values = {key: value for key, value in values.items() if key != "custom_text"}
    build = CustomTextCLIP if "init_logit_bias" in values else PeerCLIP
    return randomized(build(**values))


def pair(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, CLIP]:
    """A small open_clip model and ours with its weights."""
    if name not in SIGLIP:
        values = shrunk(name)
        peer, config = build_peer(values), from_open_clip(values)
    else:
        values = copy.deepcopy(PEER[name])
        text, full = values["text_cfg"], from_open_clip(values)
        width = 8 * full.vision.num_heads
        text |= {"vocab_size": 60, "width": 8 * text["heads"], "layers": 2}
        values["embed_dim"] = width
        create: Callable[..., nn.Module] = timm.create_model
        size = 3 * full.vision.patch_size + full.vision.image_size % full.vision.patch_size
        monkeypatch.setattr(
            timm,
            "create_model",
            lambda *a, **k: create(*a, **k, embed_dim=width, depth=2, img_size=size),
        )
        peer = build_peer(values)
        small = {"width": width, "num_layers": 2}
        config = dataclasses.replace(
            full,
            embed_dim=width,
            vision=dataclasses.replace(full.vision, image_size=size, **small),
            text=dataclasses.replace(full.text, vocab_size=60, width=text["width"], num_layers=2),
        )
    return peer, loaded(peer, config)


def loaded(peer: nn.Module, config: CLIPConfig) -> CLIP:
    model = CLIP(config).eval()
    state = peer.state_dict()
    # Names are ours but where the image tower is timm's.
    model.load_state_dict(to_native(state, config) if "text.ln_final.weight" in state else state)
    return model


def inputs(config: CLIPConfig, batch: int = 3) -> tuple[Tensor, Tensor]:
    """Images, and captions of different lengths that end with the end token."""
    generator = torch.Generator().manual_seed(2)
    size, text = config.vision.image_size, config.text
    images = torch.randn(batch, 3, size, size, generator=generator)
    end = text.vocab_size - 1 if text.eot_token_id is None else text.eot_token_id
    tokens = torch.zeros(batch, text.context_length, dtype=torch.long)
    for row, ids in enumerate(tokens):
        length = 3 + row * (text.context_length - 3) // (batch - 1)
        ids[: length - 1] = torch.randint(5, 50, (length - 1,), generator=generator)
        ids[length - 1] = end
    return images, tokens


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Within the tolerance of the largest value, which features of these weights keep near 1."""
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1))


@pytest.mark.parametrize("name", OURS)
def test_features_are_equal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, model = pair(name, monkeypatch)
    images, tokens = inputs(model.config)
    with torch.no_grad():
        assert close(model.encode_image(images), peer.encode_image(images), 1e-5)
        assert close(model.encode_text(tokens), peer.encode_text(tokens), 1e-5)
        ours, theirs = model(images, tokens), peer(images, tokens)
    for mine, other in zip(ours, theirs, strict=False):
        assert torch.allclose(mine, other, atol=1e-5)


GRADIENTS = ("ViT-B-32", "ViT-M-16-alt", "RN50-quickgelu", "ViT-L-14-CLIPA", "ViT-L-14-worldwide")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", [*GRADIENTS, "ViT-B-16-SigLIP2"])
def test_gradients_are_equal(
    name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, model = pair(name, monkeypatch)
    images, tokens = inputs(model.config, batch=4)
    model.set_gradient_checkpointing(checkpointing)
    if "RN" not in name:  # whose statistics would differ in the order of sums
        peer.train()
        model.train()
    for images_of, tokens_of, scale, *_ in (peer(images, tokens), model(images, tokens)):
        logits = scale * images_of @ tokens_of.T
        labels = torch.arange(4)
        loss = nn.functional.cross_entropy(logits, labels)
        (loss + nn.functional.cross_entropy(logits.T, labels)).backward()
    theirs = {key: value.grad for key, value in peer.named_parameters() if value.grad is not None}
    if name in SIGLIP:
        theirs = to_native(theirs, model.config)
    compared = 0
    for key, parameter in model.named_parameters():
        if key == "logit_bias":
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, key
        assert close(parameter.grad, theirs[key], 1e-4), key
        compared += 1
    assert compared == len(theirs)


FEW = ("ViT-B-32", "RN50x4", "ViT-L-14-CLIPA", "ViT-M-16-alt", "ViT-SO400M-14-SigLIP-384")


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in OURS]
)
def test_parameter_counts_are_equal(name: str) -> None:
    with torch.device("meta"):
        ours = CLIP(get_config(name))
        theirs = open_clip.create_model(name, device="meta")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP", "ViT-B-16-quickgelu"])
def test_features_of_whole_models_are_equal(name: str) -> None:
    peer = open_clip.create_model(name).eval()
    model = loaded(peer, get_config(name))
    images, tokens = inputs(model.config)
    with torch.no_grad():
        for ours, theirs in zip(model(images, tokens), peer(images, tokens), strict=False):
            assert torch.allclose(ours, theirs, atol=1e-5)


def test_fixed_positions_and_layer_scale() -> None:
    values = shrunk("ViT-B-16")
    values["vision_cfg"] |= {
        "pos_embed_type": "sin_cos_2d",
        "ls_init_value": 0.5,
        "no_ln_pre": True,
    }
    values["text_cfg"] |= {"ls_init_value": 0.5, "pool_type": "first"}
    torch.manual_seed(0)
    peer = PeerCLIP(**values).eval()
    fresh = CLIP(from_open_clip(values)).visual.positional_embedding
    assert torch.allclose(fresh, peer.visual.positional_embedding, atol=1e-6)
    model = loaded(peer, from_open_clip(values))
    images, tokens = inputs(model.config)
    with torch.no_grad():
        assert close(model.encode_image(images), peer.encode_image(images), 1e-5)
        assert close(model.encode_text(tokens), peer.encode_text(tokens), 1e-5)


def test_other_image_sizes_are_as_open_clip_resizes_a_checkpoint() -> None:
    values = shrunk("ViT-B-16")
    peer = build_peer(values)
    model = loaded(peer, from_open_clip(values))
    patch = values["vision_cfg"]["patch_size"]
    for side in (2, 3, 7):
        values["vision_cfg"]["image_size"] = side * patch
        resized, state = PeerCLIP(**values).eval(), peer.state_dict()
        open_clip.model.resize_pos_embed(state, resized)
        resized.load_state_dict(state)
        images = torch.randn(2, 3, side * patch, side * patch)
        with torch.no_grad():
            assert close(model.encode_image(images), resized.encode_image(images), 1e-5)

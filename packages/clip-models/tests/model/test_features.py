"""Tokens, hidden states and attention maps: those of open_clip and transformers."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from clip_models import CLIP, CLIPConfig, ConfigError, save_pretrained
from clip_models.config import CompactResNetConfig, PreprocessConfig, TextConfig, ViTConfig
from clip_models.model import compute_image_features, compute_relevance, compute_text_features

with warnings.catch_warnings():  # of the modules that transformers imports
    warnings.simplefilter("ignore")
    from transformers import CLIPModel

SMALL: dict[str, Any] = {"width": 64, "num_layers": 3, "num_heads": 1}
TEXT = TextConfig(context_length=9, vocab_size=50, width=64, num_layers=2, num_heads=2)
CONFIG = CLIPConfig(embed_dim=12, vision=ViTConfig(image_size=32, patch_size=8, **SMALL), text=TEXT)
TOKENS = torch.tensor([[1, 2, 3, 49, 0, 0, 0, 0, 0], [1, 5, 6, 7, 8, 9, 10, 11, 49]])


@torch.no_grad()
def test_they_are_those_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = CLIP(CONFIG).eval(), torch.randn(2, 3, 32, 32)
    save_pretrained(tmp_path, model, PreprocessConfig(size=32))
    theirs = CLIPModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    wanted = {"output_hidden_states": True, "output_attentions": True}
    pairs = (
        (compute_image_features(model, images), theirs.vision_model(images, **wanted)),
        (compute_text_features(model, TOKENS), theirs.text_model(TOKENS, **wanted)),
    )
    for ours, other in pairs:
        for part in ("hidden_states", "attentions"):
            for mine, given in zip(getattr(ours, part), getattr(other, part), strict=True):
                torch.testing.assert_close(mine, given, atol=1e-5, rtol=0)
    torch.testing.assert_close(pairs[1][0].tokens, pairs[1][1].last_hidden_state, atol=1e-5, rtol=0)
    assert pairs[0][0].grid == (4, 4)


@torch.no_grad()
def test_patch_tokens_are_those_of_open_clip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = CLIP(CONFIG).eval(), torch.randn(2, 3, 32, 32)
    save_pretrained(tmp_path, model, PreprocessConfig(size=32))
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    theirs.visual.output_tokens = True
    _, tokens = theirs.visual(images)
    ours = compute_image_features(model, images)
    torch.testing.assert_close(ours.tokens[:, 1:], tokens, atol=1e-5, rtol=0)
    assert torch.equal(ours.patch_map.flatten(2).transpose(1, 2), ours.tokens[:, 1:])


@torch.no_grad()
def test_nothing_of_the_tower_is_changed() -> None:
    model, images = CLIP(CONFIG).eval(), torch.randn(2, 3, 48, 32)
    before = model.encode_image(images), model.encode_text(TOKENS)
    inside = compute_image_features(model, images)
    compute_text_features(model, TOKENS)
    assert inside.grid == (6, 4)
    assert torch.allclose(inside.tokens[:, 0] @ model.visual.proj, before[0], atol=1e-5)
    assert torch.equal(model.encode_image(images), before[0])
    assert torch.equal(model.encode_text(TOKENS), before[1])


def test_convolutions_have_no_tokens() -> None:
    vision = CompactResNetConfig(image_size=32, widths=(4, 8))
    model = CLIP(CLIPConfig(embed_dim=12, vision=vision, text=TEXT))
    with pytest.raises(ConfigError, match="only vision transformers have tokens, got compact"):
        compute_image_features(model, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("readout", ["class_token", "patch_average", "map"])
def test_relevance_is_what_a_patch_adds_to_the_similarity(readout: Any) -> None:
    """A slightly larger token before the last layer changes the cosine by its relevance."""
    torch.manual_seed(0)
    vision = dataclasses.replace(CONFIG.vision, readout=readout, class_token=readout != "map")
    model = CLIP(dataclasses.replace(CONFIG, vision=vision)).double().eval()
    images, step = torch.randn(1, 3, 32, 40, dtype=torch.float64), 1e-6
    relevance = compute_relevance(model, images, TOKENS[1:])
    assert relevance.shape == (1, 4, 5)
    text = model.encode_text(TOKENS[1:], normalize=True)

    def similarity(patch: int, scale: float) -> float:
        def enlarge(_: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0].clone()
            x[:, patch - 20] *= scale
            return (x, *args[1:])

        handle = model.visual.transformer.resblocks[-1].register_forward_pre_hook(enlarge)
        with torch.no_grad():
            cosine = (model.encode_image(images, normalize=True) * text).sum()
        handle.remove()
        return float(cosine)

    for patch, gain in enumerate(relevance.flatten().tolist()):
        slope = (similarity(patch, 1 + step) - similarity(patch, 1 - step)) / (2 * step)
        assert gain == pytest.approx(max(slope, 0.0), abs=1e-7)
    assert relevance.max() > 0

"""The whitening of patches, the identity at the start, what is trained, and the saved stem."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_models import CLIP, CLIPConfig, ConfigError, load_model, save_model
from clip_models.config import PreprocessConfig, TextConfig, WhitenedCNNConfig, from_dict, to_dict
from clip_models.model.whitened_cnn import WhitenedCNN, patch_whitening
from torch.nn.functional import conv2d, gelu

TEXT = TextConfig(context_length=8, vocab_size=20, width=16, num_layers=1, num_heads=2)


def images(count: int = 6, side: int = 9) -> torch.Tensor:
    """Correlated pixels, so that there is something to whiten."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 3, side + 2, side + 2, generator=generator, dtype=torch.float64)
    mixed = noise + noise.roll(1, dims=3) + 0.5 * noise.roll(1, dims=1)
    return mixed[:, :, 1:-1, 1:-1] + 0.3


def tower(**changes: Any) -> WhitenedCNN:
    torch.manual_seed(0)
    config = dataclasses.replace(WhitenedCNNConfig(image_size=16, widths=(8, 8)), **changes)
    return WhitenedCNN(config, 4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_whitened_patches_have_no_second_moments_but_one(size: int) -> None:
    weight = patch_whitening(images(), size, eps=1e-12)
    half = 3 * size**2
    assert weight.shape == (2 * half, 3, size, size)
    assert torch.equal(weight[:half], -weight[half:])
    found = conv2d(images(), weight[:half]).transpose(0, 1).flatten(1)  # (P, ·)
    moments = found @ found.T / found.shape[1]
    assert torch.allclose(moments, torch.eye(half, dtype=torch.float64), atol=1e-8)


def test_eps_damps_directions_without_variance() -> None:
    grey = images()[:, :1].expand(-1, 3, -1, -1)  # two thirds of the directions are empty
    weight = patch_whitening(grey, 1, eps=1e-2)
    assert weight.abs().max() <= 10  # 1 / sqrt(eps)
    value = grey.square().sum(dim=1).mean()
    expected = (3 * (1 / 3) / (value + 1e-2)).sqrt()  # along (1, 1, 1) / sqrt(3)
    assert weight[0].norm() == pytest.approx(float(expected), rel=1e-9)


def test_whitening_equals_a_slow_loop() -> None:
    pixels, eps = images(2, 4), 5e-4
    patches = [
        image[:, top : top + 2, left : left + 2].reshape(-1)
        for image in pixels
        for top in range(3)
        for left in range(3)
    ]
    moments = sum(torch.outer(patch, patch) for patch in patches) / len(patches)
    values, vectors = torch.linalg.eigh(moments)
    weight = patch_whitening(pixels, 2, eps=eps)[:12].reshape(12, 12)
    for row, value, vector in zip(weight, values.flip(0), vectors.T.flip(0), strict=True):
        expected = vector / (value + eps).sqrt()
        assert torch.allclose(row.abs(), expected.abs(), atol=1e-9)
        assert row[row.abs().argmax()] > 0


def test_convolutions_begin_as_the_identity() -> None:
    made = tower(widths=(32, 16))
    first, second = made.stages
    x = torch.randn(2, 24, 6, 6)
    assert torch.allclose(first.conv1(x)[:, :24], x, atol=1e-6)
    x = torch.randn(2, 32, 6, 6)
    assert torch.allclose(first.conv2(x), x, atol=1e-6)
    assert torch.allclose(second.conv1(x), x[:, :16], atol=1e-6)
    assert not torch.allclose(tower(widths=(32, 16), dirac=False).stages[0].conv2(x), x, atol=0.1)


def test_the_features_are_those_of_the_equation() -> None:
    made = tower(widths=(8,)).double().eval()
    made.whiten(images(side=16))
    (pair,) = made.stages
    x = images(3, 16)
    y = gelu(conv2d(x, made.stem.weight))
    y = conv2d(y, pair.conv1.weight, padding=1).unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    y = gelu(y / (1 + 1e-5) ** 0.5)  # no statistics yet
    y = gelu(conv2d(y, pair.conv2.weight, padding=1) / (1 + 1e-5) ** 0.5)
    assert torch.allclose(made(x), y.flatten(2).amax(2) @ made.proj.weight.T, atol=1e-12)


def test_the_stem_and_the_scales_of_norms_are_not_trained() -> None:
    made = tower()
    frozen = {name for name, p in made.named_parameters() if not p.requires_grad}
    norms = {f"stages.{i}.norm{k}.weight" for i in (0, 1) for k in (1, 2)}
    assert frozen == {"stem.weight"} | norms
    free = tower(stem="trained", norm_scale=True)
    assert all(p.requires_grad for p in free.parameters())
    assert free.stem.bias is not None
    made.train()(torch.randn(4, 3, 16, 16)).sum().backward()
    assert made.stem.weight.grad is None
    assert made.stages[0].norm1.momentum == 0.4


def test_the_stem_is_saved_with_the_model(tmp_path: Path) -> None:
    config = CLIPConfig(
        embed_dim=4, vision=WhitenedCNNConfig(image_size=16, widths=(8, 8)), text=TEXT
    )
    assert from_dict(CLIPConfig, to_dict(config)) == config
    model = CLIP(config).eval()
    model.visual.whiten(images(side=16).float())
    save_model(tmp_path, model, PreprocessConfig(size=16))
    found = load_model(tmp_path)[0].eval()
    assert torch.equal(found.visual.stem.weight, model.visual.stem.weight)
    assert not found.visual.stem.weight.requires_grad
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(found.encode_image(x), model.encode_image(x))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"widths": ()}, "widths must be positive, at least one"),
        ({"widths": (8, 0)}, "widths must be positive"),
        ({"norm_momentum": 0.0}, r"norm_momentum must be in \(0, 1\]"),
        ({"image_size": 8, "widths": (4, 4, 4)}, "image_size must be at least 9 for 3 widths"),
        ({"whitening_size": 0}, "whitening_size must be a positive integer"),
    ],
)
def test_impossible_sizes_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        WhitenedCNNConfig(**values)

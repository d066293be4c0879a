"""Pooling of images of their own shape: each within its own grid, whatever its batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from clip_models import CLIP, CLIPConfig, NativeImages, convert_to_native
from clip_models.config import PoolingConfig, TextConfig, ViTConfig
from dtp_pooling.towers.token_order import order_rows
from torch import Tensor

GRIDS = [(4, 4), (1, 7), (5, 2), (3, 3), (5, 2), (1, 1)]
SMALL = {"width": 16, "num_layers": 2, "num_heads": 2}


def pooling(after: int = 1, **args: Any) -> PoolingConfig:
    return PoolingConfig(name="dynamic", after_layer=after, args=args)


def build(stages: PoolingConfig, **values: Any) -> CLIP:
    torch.manual_seed(0)
    config = CLIPConfig(
        embed_dim=8,
        vision=ViTConfig(image_size=32, patch_size=8, pooling=stages, **SMALL, **values),
        text=TextConfig(context_length=8, vocab_size=20, **SMALL),
    )
    return convert_to_native(CLIP(config).double().eval())


def draw() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(3, rows * 8, columns * 8).double() for rows, columns in GRIDS]


def alone(model: CLIP, images: list[Tensor], keys: Tensor | None) -> Tensor:
    """Features of one image at a time, each a batch of its own."""
    rows = [
        model.encode_image(
            NativeImages.from_images([image], 8), generator=None if keys is None else keys[i, None]
        )
        for i, image in enumerate(images)
    ]
    return torch.cat(rows)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "readout",
    [
        {"readout": "class_token"},
        {"readout": "average"},
        {"readout": "patch_average", "class_token": False},
        {"readout": "map", "class_token": False},
    ],
)
@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "top_k", "rate": 0.5, "order": "hilbert"},
        {"kind": "fixed", "rate": 0.3, "order": "serpentine", "proportional": True},
        {"kind": "gumbel", "rate": 0.5},
        {"kind": "dissimilarity", "rate": 0.5, "compare": "keys", "proportional": True},
    ],
)
def test_a_batch_equals_one_image_at_a_time(
    settings: dict[str, Any], readout: dict[str, Any], training: bool
) -> None:
    model = build(pooling(**settings), **readout).train(training)
    images, keys = draw(), torch.arange(len(GRIDS)) * 12345
    batch = model.encode_image(NativeImages.from_images(images, 8), generator=keys)
    torch.testing.assert_close(batch, alone(model, images, keys), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("order", ["raster", "hilbert"])
def test_squares_have_the_features_of_the_square_model(order: str) -> None:
    model = build(pooling(kind="top_k", rate=0.5, order=order))
    images = torch.randn(3, 3, 32, 32).double()
    found = model.encode_image(NativeImages.from_images(images, 8))
    torch.testing.assert_close(found, model.encode_image(images), atol=1e-9, rtol=1e-9)


def test_two_stages_and_gradients() -> None:
    second = pooling(kind="dissimilarity", rate=0.5)  # learned scores would be of float32
    stages = dataclasses.replace(pooling(0, kind="fixed", rate=0.5), then=second)
    model = build(stages, readout="average")
    images, weights = draw(), torch.randn(len(GRIDS), 8).double()
    parameters = list(model.visual.transformer.parameters())

    def gradients(features: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((features * weights).sum(), parameters))

    found = gradients(model.encode_image(NativeImages.from_images(images, 8)))
    expected = gradients(alone(model, images, None))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_an_order_follows_each_grid() -> None:
    apart = torch.zeros(3, 7, dtype=torch.bool)
    apart[:, 0] = True
    lengths = torch.tensor([7, 5, 7])
    order = order_rows(apart, lengths, "serpentine", [(2, 3), (2, 2), (3, 2)])
    assert order is not None
    assert order.tolist() == [
        [0, 1, 2, 3, 6, 5, 4],
        [0, 1, 2, 4, 3, 5, 6],
        [0, 1, 2, 4, 3, 5, 6],
    ]
    assert order_rows(apart, lengths, "raster", [(2, 3)] * 3) is None
    with pytest.raises(ValueError, match="one for each of 3 rows, got 1"):
        order_rows(apart, lengths, "hilbert", [(2, 3)])
    with pytest.raises(ValueError, match="needs a grid of 2 x 4 patches, got 6"):
        order_rows(apart, lengths, "hilbert", [(2, 4), (2, 2), (2, 3)])

"""Preprocessing: exact sizes, the field's transform, and normalisation on uint8."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_models import ConfigError, Preprocess, PreprocessConfig
from PIL import Image
from torchvision.transforms import v2


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("size", [(32, 32), (50, 40), (33, 90), (10, 20), (1, 1)])
def test_result_is_square_uint8(size: tuple[int, int], mode: str) -> None:
    preprocess = Preprocess(PreprocessConfig(size=32, resize_mode=mode))
    pixels = preprocess(picture(*size))
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.uint8


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = picture(32, 32)
    pixels = Preprocess(PreprocessConfig(size=32))(image)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_the_field_s_transform(interpolation: str) -> None:
    config = PreprocessConfig(size=24, interpolation=interpolation)
    mode = v2.InterpolationMode(interpolation)
    reference = v2.Compose(
        [
            v2.Resize(24, interpolation=mode, antialias=True),
            v2.CenterCrop(24),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(config.mean, config.std),
        ]
    )
    image, preprocess = picture(50, 40), Preprocess(config)
    ours = preprocess.normalize(preprocess(image)[None])[0]
    assert torch.allclose(ours, reference(image), atol=1e-5)


def test_squash_keeps_the_whole_image() -> None:
    image = Image.new("RGB", (60, 20))
    image.paste((255, 0, 0), (0, 0, 5, 20))  # a red left edge, which a centre crop would lose
    squash = Preprocess(PreprocessConfig(size=20, resize_mode="squash"))(image)
    crop = Preprocess(PreprocessConfig(size=20))(image)
    assert squash[0, 10, 0] > 200
    assert crop[0].max() == 0


def test_normalize_leaves_its_input_alone() -> None:
    pixels = torch.full((1, 3, 2, 2), 7, dtype=torch.uint8)
    Preprocess(PreprocessConfig(size=2)).normalize(pixels)
    assert (pixels == 7).all()


def test_impossible_std_is_refused() -> None:
    with pytest.raises(ConfigError, match="std must be positive"):
        PreprocessConfig(std=(0.1, 0.0, 0.1))

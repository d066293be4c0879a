"""Preprocessing: exact sizes, the field's transform, and normalization on uint8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from clip_models import ConfigError, Preprocess
from clip_models import preprocess as preprocess_module
from clip_models.config import PreprocessConfig
from clip_models.preprocess import EvaluationTransform, TrainTransform
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import v2


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
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


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("image_mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"])
@pytest.mark.parametrize("size", [(50, 40), (33, 90), (24, 24), (7, 300), (20, 9)])
def test_is_bit_for_bit_the_transform_of_open_clip(
    resize_mode: str, interpolation: str, image_mode: str, size: tuple[int, int]
) -> None:
    values = {
        "size": 24,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": interpolation,
        "resize_mode": resize_mode,
    }
    image = picture(*size).convert(image_mode)
    expected = image_transform_v2(PreprocessCfg(**values), is_train=False)(image)
    config = PreprocessConfig(**values)
    assert torch.equal(EvaluationTransform(config)(image), expected)
    preprocess = Preprocess(config)
    assert torch.equal(preprocess.normalize(preprocess(image)[None])[0], expected)


def test_fill_color_is_what_surrounds_a_long_image() -> None:
    config = PreprocessConfig(size=20, resize_mode="longest", fill_color=7)
    pixels = Preprocess(config)(picture(60, 20))
    assert (pixels[:, :6] == 7).all()
    assert (pixels[:, 14:] == 7).all()
    assert pixels[:, 8:12].float().std() > 10


def test_train_transform_crops_at_random_and_stays_uint8() -> None:
    config = PreprocessConfig(size=24)
    image = picture(50, 40)
    torch.manual_seed(0)
    transform = TrainTransform(config)
    first, second = transform(image), transform(image)
    assert first.dtype == torch.uint8
    assert first.shape == (3, 24, 24)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(
        24, scale=(0.9, 1.0), interpolation=v2.InterpolationMode.BICUBIC
    )
    assert torch.equal(first, v2.functional.pil_to_tensor(reference(image)))
    assert torch.equal(transform.normalize(first), Preprocess(config).normalize(first[None])[0])
    torch.manual_seed(0)
    assert not torch.equal(TrainTransform(config, scale=(0.05, 0.1))(image), first)


def test_squash_keeps_the_whole_image() -> None:
    image = Image.new("RGB", (60, 20))
    image.paste((255, 0, 0), (0, 0, 5, 20))  # a red left edge, which a center crop would lose
    squash = Preprocess(PreprocessConfig(size=20, resize_mode="squash"))(image)
    crop = Preprocess(PreprocessConfig(size=20))(image)
    assert squash[0, 10, 0] > 200
    assert crop[0].max() == 0


def test_normalize_leaves_its_input_alone() -> None:
    pixels = torch.full((1, 3, 2, 2), 7, dtype=torch.uint8)
    Preprocess(PreprocessConfig(size=2)).normalize(pixels)
    assert (pixels == 7).all()


def test_normalize_leaves_float_pixels_alone() -> None:
    pixels = torch.full((1, 3, 2, 2), 7.0)
    Preprocess(PreprocessConfig(size=2)).normalize(pixels)
    assert (pixels == 7).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"std": (0.1, 0.0, 0.1)}, "std must be positive"),
        ({"size": 0}, "size must be a positive integer"),
        ({"fill_color": 256}, "fill_color must be in 0 … 255, got 256"),
    ],
)
def test_what_is_impossible_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PreprocessConfig(**values)


@pytest.mark.parametrize("shape", [(1, 300_000), (300_000, 1), (3, 500_001)])
def test_a_line_is_cropped_before_it_is_resized(shape: tuple[int, int]) -> None:
    gray = np.linspace(0, 255, max(shape)).astype(np.uint8).reshape(-1, 1)
    pixels = np.repeat(gray, min(shape), axis=1).reshape(max(shape), min(shape), 1)
    pixels = pixels if shape[0] > shape[1] else pixels.swapaxes(0, 1)
    image = Image.fromarray(np.repeat(pixels, 3, axis=2))
    found = Preprocess(PreprocessConfig(size=64))(image)
    assert found.shape == (3, 64, 64)
    assert set(found.unique().tolist()) <= {126, 127, 128}  # its middle


def test_other_images_are_resized_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    waves = 127 + 100 * np.sin(np.arange(900) / 9)[None, :, None] * np.ones((10, 1, 3))
    pixels = waves.astype(np.uint8)
    image, transform = Image.fromarray(pixels), Preprocess(PreprocessConfig(size=8))
    whole = transform(image)
    monkeypatch.setattr(preprocess_module, "KEPT_ASPECT", 1)
    assert torch.equal(transform(image), whole)
    monkeypatch.setattr(preprocess_module, "MOST_RESIZED", 2**12)
    monkeypatch.setattr(preprocess_module, "KEPT_ASPECT", 16)
    assert (transform(image).int() - whole.int()).abs().max() < 12  # half a pixel of the waves


@pytest.mark.parametrize("make", [Preprocess, TrainTransform, EvaluationTransform])
@pytest.mark.parametrize("image", [np.zeros((9, 9, 3), np.uint8), "a.jpg", torch.zeros(3, 9, 9)])
def test_what_is_no_picture_is_named(make: Any, image: Any) -> None:
    kind = type(image).__name__
    with pytest.raises(TypeError, match=rf"expected a PIL image, got {kind}; .*fromarray"):
        make(PreprocessConfig(size=8))(image)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_from_0_to_1_are_no_pixels(dtype: torch.dtype) -> None:
    preprocess = Preprocess(PreprocessConfig(size=8))
    with pytest.raises(ValueError, match=r"from 0 to 255, .* got numbers from 0 to 1; multiply"):
        preprocess.normalize(torch.rand(1, 3, 8, 8).to(dtype))
    for black in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        assert torch.equal(preprocess.normalize(black), preprocess.normalize(black.byte()))

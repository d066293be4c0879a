"""Sizes, crops and pixels of images that keep their aspect ratio."""

from __future__ import annotations

import warnings

import pytest
import torch
from clip_models import (
    CLIPConfig,
    ConfigError,
    NativeImages,
    Preprocess,
    create_model_and_transforms,
)
from clip_models.config import PreprocessConfig, TextConfig, ViTConfig
from clip_models.native_images import cut_patches
from clip_models.preprocess import TrainTransform, crop_area, fit_grid
from PIL import Image

NATIVE = PreprocessConfig(size=32, resize_mode="native", patch_size=8, max_tokens=20)


def test_grids_are_those_of_transformers_and_timm() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from timm.data.naflex_transforms import get_image_size_for_seq
        from transformers.models.siglip2.image_processing_pil_siglip2 import (
            get_image_size_for_max_num_patches,
        )
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        height, width = torch.randint(1, 2000, (2,), generator=generator).tolist()
        patch, limit = 2 ** int(torch.randint(2, 6, (), generator=generator)), 256
        found = fit_grid(height, width, patch, limit)
        expected = get_image_size_for_max_num_patches(height, width, patch, limit)
        assert (found[0] * patch, found[1] * patch) == expected
        assert expected == get_image_size_for_seq((height, width), patch, limit)[1]
        assert fit_grid(width, height, patch, limit) == found[::-1]


@pytest.mark.parametrize("limit", [1, 2, 7, 64])
@pytest.mark.parametrize("size", [(1, 80_000_000), (80_000_000, 1), (1, 1), (3, 5), (4000, 11)])
def test_there_are_never_more_tokens_than_the_limit(size: tuple[int, int], limit: int) -> None:
    rows, columns = fit_grid(*size, 16, limit)
    assert rows >= 1
    assert columns >= 1
    assert rows * columns <= limit


def test_images_keep_their_aspect_ratio() -> None:
    preprocess = Preprocess(NATIVE)
    shapes = [tuple(preprocess(Image.new("L", size)).shape) for size in ((50, 50), (90, 30))]
    assert shapes == [(3, 32, 32), (3, 16, 48)]  # 2 x 6 patches: 3 x 9 are more than 20
    left = Image.new("RGB", (90, 30))
    left.paste((255, 0, 0), (0, 0, 45, 30))
    pixels = preprocess(left)
    assert pixels.dtype == torch.uint8
    assert (pixels[0, :, :20] == 255).all()
    assert (pixels[0, :, 30:] == 0).all()


def test_patches_are_normalized_as_pixels_are() -> None:
    preprocess = Preprocess(NATIVE)
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    native = preprocess.normalize(NativeImages.from_images(images, 8))
    expected = cut_patches(preprocess.normalize(images), 8)[0]
    assert torch.equal(native.patches, expected)
    assert native.grids == ((2, 3), (2, 3))


def test_crops_have_the_aspect_ratio_of_the_image() -> None:
    assert crop_area((80, 40), (0.25, 0.25), (0.5, 0, 0)) == (0, 0, 40, 20)
    assert crop_area((80, 40), (0.25, 0.25), (0.5, 0.999, 0.999)) == (40, 20, 80, 40)
    assert crop_area((80, 40), (1.0, 1.0), (0.3, 0.4, 0.9)) == (0, 0, 80, 40)
    assert crop_area((1, 1), (0.01, 0.01), (0.3, 0.4, 0.9)) == (0, 0, 1, 1)


def test_training_crops_an_area_or_nothing() -> None:
    picture = Image.effect_noise((90, 30), 80)
    whole = TrainTransform(NATIVE, scale=(1.0, 1.0))(picture)
    assert torch.equal(whole, Preprocess(NATIVE)(picture))
    torch.manual_seed(0)
    crop = TrainTransform(NATIVE, scale=(0.3, 0.5))
    first, second = crop(picture), crop(picture)
    assert first.shape == second.shape == whole.shape
    assert not torch.equal(first, second)


def test_a_native_model_comes_with_its_transforms() -> None:
    small = {"width": 16, "num_layers": 1, "num_heads": 1}
    native = CLIPConfig(
        embed_dim=8,
        vision=ViTConfig(image_size=224, patch_size=16, native=True, **small),
        text=TextConfig(**small),
    )
    made = create_model_and_transforms(native)
    picture = Image.new("RGB", (300, 100), (10, 200, 30))
    image = made.evaluate(picture)
    assert image.shape == (3, 128, 384)  # of at most 14 x 14 patches
    assert made.train(picture).dtype == torch.uint8
    batch = NativeImages.from_images([image, made.evaluate(picture.resize((50, 50)))], 16)
    assert batch.grids == ((8, 24), (14, 14))
    squashed = create_model_and_transforms(native, square_resize_only=True)
    assert squashed.evaluate(picture).shape == (3, 224, 224)


def test_sizes_belong_to_native_images() -> None:
    with pytest.raises(ConfigError, match="patch_size must be a positive integer"):
        PreprocessConfig(resize_mode="native", max_tokens=5)
    with pytest.raises(ConfigError, match="max_tokens must be a positive integer"):
        PreprocessConfig(resize_mode="native", patch_size=5)
    with pytest.raises(ConfigError, match="are for resize_mode 'native', got 'squash'"):
        PreprocessConfig(resize_mode="squash", patch_size=5)

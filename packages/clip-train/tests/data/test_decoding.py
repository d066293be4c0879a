"""Decoding: exact equals Pillow's own steps; scaled is near it, never smaller than the crop."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_eval.data import BadSample, Sample, decode_image
from clip_models import Preprocess
from clip_models.config import PreprocessConfig
from clip_train.augment.geometry import CROP_ATTEMPTS, crop_box
from clip_train.config.data import AugmentConfig, DataConfig
from clip_train.data.decoding import PixelReader, _RandomCrop
from clip_train.data.digest import data_digest
from clip_train.data.sources import open_training_source
from PIL import Image

UNIFORM = np.random.default_rng(3).random((8, 4 * CROP_ATTEMPTS)).tolist()


def photo(width: int = 640, height: int = 480, kind: str = "JPEG") -> bytes:
    coarse = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def pixel_reader(decode: str, kind: str = "random_resized_crop", **config: object) -> PixelReader:
    class Nothing:
        name = "none"

    return PixelReader(
        Nothing(),
        Preprocess(PreprocessConfig(size=112, **config)),
        AugmentConfig(kind=kind, scale=(0.3, 1.0)),
        DataConfig(decode=decode),
    )


def sample(data: bytes) -> Sample:
    return Sample("k", data, ("a caption",))


@pytest.mark.parametrize("uniform", UNIFORM)
def test_exact_is_a_full_decode_and_one_resize(uniform: list[float]) -> None:
    data = photo()
    box = crop_box(640, 480, uniform, (0.3, 1.0))
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    image = Image.open(io.BytesIO(data))
    expected = np.asarray(image.resize((112, 112), Image.Resampling.BICUBIC, box=edges))
    found = pixel_reader("exact").decode(sample(data), uniform, 112)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [32, 112, 224, 500])
@pytest.mark.parametrize("shape", [(640, 480), (333, 517), (1001, 997)])
@pytest.mark.parametrize("kind", ["random_resized_crop", "none"])
def test_scaled_is_near_exact(size: int, shape: tuple[int, int], kind: str) -> None:
    data = sample(photo(*shape))
    for uniform in UNIFORM:
        exact = pixel_reader("exact", kind).decode(data, uniform, size)
        scaled = pixel_reader("scaled", kind).decode(data, uniform, size)
        assert scaled.shape == exact.shape == (size, size, 3)
        error = np.square(scaled.astype(float) - exact).mean()
        assert 10 * np.log10(255**2 / max(error, 1e-9)) > 32


def test_the_crop_keeps_its_place_and_its_pixels() -> None:
    """The decoded crop has at least the wanted size, at the same part of the image."""
    data = photo(1280, 960)
    for uniform in UNIFORM:
        crop = _RandomCrop(100, uniform, (0.3, 1.0))
        image = decode_image(data, least_size=crop.least_size)
        left, top, right, bottom = crop.within(image)
        box = crop_box(1280, 960, uniform, (0.3, 1.0))
        factor = 1280 / image.width
        assert factor in (2, 4, 8)
        assert right - left >= 100
        assert bottom - top >= 100
        assert (left * factor, top * factor) == (box.left, box.top)
        assert (right * factor, bottom * factor) == (box.left + box.width, box.top + box.height)
        assert min(right - left, bottom - top) < 200 or factor == 8  # and no larger than needed


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_other_formats_are_decoded_in_full(resize_mode: str) -> None:
    data = sample(photo(kind="PNG"))
    for kind in ("none", "random_resized_crop"):
        readers = [
            pixel_reader(decode, kind, resize_mode=resize_mode) for decode in ("exact", "scaled")
        ]
        one, other = (made.decode(data, UNIFORM[0], 112) for made in readers)
        assert np.array_equal(one, other)


def test_without_a_crop_it_is_the_evaluation_transform() -> None:
    data = photo()
    expected = Preprocess(PreprocessConfig(size=96))(decode_image(data))
    found = pixel_reader("exact", "none").decode(sample(data), (), 96)
    assert torch.equal(torch.from_numpy(found).permute(2, 0, 1), expected)


def test_truncated_jpegs_are_noticed_at_any_scale() -> None:
    data = photo()
    for decode in ("exact", "scaled"):
        with pytest.raises(BadSample, match="k: truncated"):
            pixel_reader(decode).decode(sample(data[: len(data) // 2]), UNIFORM[0], 32)
        with pytest.raises(BadSample, match="k: no-caption"):
            pixel_reader(decode).decode(Sample("k", data), UNIFORM[0], 32)


def test_a_line_is_not_blown_up() -> None:
    for data, decode in ((photo(1, 300, "PNG"), "exact"), (photo(2, 500), "scaled")):
        with pytest.raises(BadSample, match=r"k: too-large: \d x \d+, and larger with a shorter"):
            pixel_reader(decode, "none").decode(sample(data), [], 112)
    line = sample(photo(1, 300, "PNG"))
    assert pixel_reader("exact").decode(line, UNIFORM[0], 112).shape == (112, 112, 3)
    for mode in ("squash", "longest"):
        reader = pixel_reader("exact", "none", resize_mode=mode)
        assert reader.decode(line, [], 112).shape == (112, 112, 3)


@pytest.mark.parametrize("kind", ["none", "random_resized_crop"])
@pytest.mark.parametrize("decode", ["scaled", "exact"])
def test_images_are_turned_upright_before_they_are_cropped(
    tmp_path: Path, kind: str, decode: str
) -> None:
    """An image with a tag gives the pixels of the upright image that was stored losslessly."""
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 255, (6, 9, 3), dtype=np.uint8))
    large = small.resize((288, 192), Image.Resampling.NEAREST)
    for folder in ("tagged", "upright"):
        (tmp_path / folder / "x").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / "tagged" / "x" / "0.png", exif=exif)
    large.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright" / "x" / "0.png")
    found, digests = {}, {}
    for folder, turns in (("tagged", True), ("tagged", False), ("upright", False)):
        data = DataConfig(train=str(tmp_path / folder), decode=decode, exif_orientation=turns)
        data = replace(data, templates=("a {c}",))
        source = open_training_source(data)
        assert source.exif_orientation is turns
        augment = AugmentConfig(kind=kind, scale=(0.4, 0.6))
        reader = PixelReader(source, Preprocess(PreprocessConfig(size=32)), augment, data)
        found[folder, turns] = reader.read(0, UNIFORM[0], 32)[1]
        digests[folder, turns] = data_digest(source)
    assert np.array_equal(found["tagged", True], found["upright", False])
    assert not np.array_equal(found["tagged", True], found["tagged", False])
    assert digests["tagged", True] != digests["tagged", False]

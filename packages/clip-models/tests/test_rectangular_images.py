"""Images of any height and width: configs, preprocessing, sizes given to the factory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from clip_models import (
    CLIP,
    CLIPConfig,
    ConfigError,
    create_model,
    create_model_and_transforms,
    load_model,
    save_model,
    save_pretrained,
)
from clip_models.cli import main
from clip_models.config import (
    CompactResNetConfig,
    ModifiedResNetConfig,
    PreprocessConfig,
    TextConfig,
    ViTConfig,
    from_dict,
    to_dict,
)
from clip_models.preprocess import EvaluationTransform, TrainTransform
from open_clip.transform import image_transform
from PIL import Image

SMALL: dict[str, Any] = {"width": 32, "num_layers": 2, "num_heads": 1, "head_width": 32}
TEXT = TextConfig(context_length=8, vocab_size=20, width=32, num_layers=1, num_heads=1)
VIT = ViTConfig(image_size=(32, 48), patch_size=8, **SMALL)
TOWERS = {
    "vit": VIT,
    "sin_cos": dataclasses.replace(VIT, position="sin_cos", class_position=False),
    "map": dataclasses.replace(VIT, class_token=False, readout="map"),
    "modified_resnet": ModifiedResNetConfig(
        image_size=(64, 96), layers=(1, 1, 1, 1), width=8, num_heads=4
    ),
    "compact": CompactResNetConfig(image_size=(16, 32), widths=(4, 8), pooling="flatten"),
}


def model_of(vision: Any) -> CLIP:
    torch.manual_seed(0)
    return CLIP(CLIPConfig(embed_dim=16, vision=vision, text=TEXT)).eval()


def picture(height: int = 50, width: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_tower_of_rectangles_is_saved_and_loaded(tower: str, tmp_path: Path) -> None:
    vision = TOWERS[tower]
    model = model_of(vision)
    save_model(tmp_path, model, PreprocessConfig(size=vision.image_size))
    loaded, preprocess = load_model(tmp_path)
    assert loaded.config.vision.image_size == vision.image_size == preprocess.size
    images = torch.randn(2, 3, *vision.image_size)
    ours, theirs = loaded.encode_image(images), model.encode_image(images)
    assert torch.allclose(ours, theirs, atol=1e-6)
    with pytest.raises(ConfigError, match=r"images must be square here, got \d+ x \d+"):
        _ = vision.image_side


def test_equal_sides_are_one_number() -> None:
    config = dataclasses.replace(VIT, image_size=(64, 64))
    assert config.image_size == 64
    assert from_dict(ViTConfig, to_dict(VIT)) == VIT
    assert from_dict(PreprocessConfig, {"size": [64, 64]}).size == 64
    for wrong in ((32,), (32, 0), (32, 32, 32), "32", (32.0, 48)):
        with pytest.raises(ConfigError, match="image_size must be a"):
            dataclasses.replace(VIT, image_size=wrong if wrong != (32,) else (32, 32, 32))


@pytest.mark.parametrize("source", [(50, 40), (40, 90), (7, 200), (32, 48), (64, 96)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(32, 48), (48, 20)])
def test_transforms_are_those_of_open_clip(
    size: tuple[int, int], mode: str, source: tuple[int, int]
) -> None:
    config = PreprocessConfig(size=size, resize_mode=mode)  # type: ignore[arg-type]
    theirs = image_transform(size, is_train=False, resize_mode=mode, fill_color=0)
    image = picture(*source)
    ours = EvaluationTransform(config)(image)
    assert ours.shape == (3, *size)
    assert torch.equal(ours, theirs(image))
    assert TrainTransform(config)(image).shape == (3, *size)


def test_open_clip_computes_the_same(tmp_path: Path) -> None:
    model = model_of(VIT)
    save_pretrained(tmp_path, model, PreprocessConfig(size=(32, 48)))
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        ours, other = model.encode_image(images), theirs.eval().encode_image(images)
    assert torch.allclose(ours, other, atol=1e-5)
    assert not (tmp_path / "config.json").exists()  # transformers has square images only
    (tmp_path / "clip_config.json").unlink()
    again = create_model_and_transforms(tmp_path)
    assert again.model.config.vision.image_size == (32, 48)
    assert torch.equal(again.evaluate(picture()), transform(picture()))


@pytest.mark.parametrize("tower", ["vit", "map", "sin_cos", "modified_resnet"])
def test_other_sizes_can_be_forced(tower: str, tmp_path: Path) -> None:
    """Positions are interpolated as the tower does for images of that size."""
    vision = TOWERS[tower]
    model = model_of(vision)
    save_model(tmp_path, model, PreprocessConfig(size=vision.image_size))
    for size in ((96, 64), 64, (64, 128)):
        forced = create_model_and_transforms(tmp_path, force_image_size=size)
        assert forced.model.config.vision.image_size == size
        assert forced.evaluate.config.size == size
        images = torch.randn(2, 3, *forced.model.config.vision.image_sides)
        ours, theirs = forced.model.encode_image(images), model.encode_image(images)
        assert torch.allclose(ours, theirs, atol=1e-5)
    square = model_of(dataclasses.replace(vision, image_size=64))
    save_model(tmp_path / "square", square, PreprocessConfig(size=64))
    forced = create_model(tmp_path / "square", force_image_size=(64, 96))
    images = torch.randn(2, 3, 64, 96)
    assert torch.allclose(forced.encode_image(images), square.encode_image(images), atol=1e-5)


def test_openai_files_hold_squares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model", model_of(VIT), PreprocessConfig(size=(32, 48)))
    out = tmp_path / "out.pt"
    assert main(["convert", str(tmp_path / "model"), "--to", "openai", "--out", str(out)]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert not out.exists()

"""Averaged views against a slow loop; a result names them, and a cache keeps them apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from clip_eval import EvaluationConfig, EvaluationError, evaluate, load_for_evaluation
from clip_eval.data import open_source
from clip_eval.encoding.encoder import make_encoder
from clip_eval.encoding.views import average_views
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize


def encode(images: Tensor) -> Tensor:
    """Something that neither a mirror nor a shift leaves alone."""
    weight = torch.arange(images[0].numel(), dtype=torch.float64).view(images.shape[1:]).sin()
    return torch.stack([(images * weight).sum((1, 2, 3)), (images**2 * weight).sum((1, 2, 3))], 1)


IMAGES = torch.arange(2 * 3 * 4 * 5, dtype=torch.float64).view(2, 3, 4, 5).cos()


def shifted(image: Tensor, by: int) -> Tensor:
    """The image moved by some pixels down and right, its border mirrored."""
    moved, (height, width) = image.clone(), image.shape[1:]
    for row in range(height):
        for column in range(width):
            places = []
            for place, size in ((row - by, height), (column - by, width)):
                place = abs(place)
                places.append(2 * (size - 1) - place if place >= size else place)
            moved[:, row, column] = image[:, places[0], places[1]]
    return moved


def test_views_equal_a_slow_loop() -> None:
    for number, image in enumerate(IMAGES):
        pair = [encode(x[None])[0] for x in (image, image.flip(-1))]
        mirror = sum(pair) / 2
        moved = [shifted(image, by) for by in (1, -1)]
        four = [encode(x[None])[0] for m in moved for x in (m, m.flip(-1))]
        found = {name: average_views(encode, IMAGES, name)[number] for name in NAMES}
        assert torch.allclose(found["single"], pair[0])
        assert torch.allclose(found["mirror"], mirror)
        assert torch.allclose(found["mirror_shift"], (mirror + sum(four) / 4) / 2)


NAMES = ("single", "mirror", "mirror_shift")


def test_a_shift_by_none_is_the_image() -> None:
    assert torch.equal(shifted(IMAGES[0], 0), IMAGES[0])
    assert torch.equal(shifted(IMAGES[0], 1)[:, 1:, 1:], IMAGES[0][:, :-1, :-1])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for color, value in (("red", (200, 30, 30)), ("green", (30, 200, 30))):
        (tmp_path / "pictures" / color).mkdir(parents=True)
        for index in range(2):
            image = Image.new("RGB", (16, 16), value)
            image.paste((0, 0, 90), (0, 0, 3 + 4 * index, 16))
            image.save(tmp_path / "pictures" / color / f"{index}.png")
    return tmp_path / "pictures"


def test_a_result_names_its_views(trained_directory: Path, pictures: Path) -> None:
    loaded, source = load_for_evaluation(trained_directory), open_source(f"imagefolder:{pictures}")
    for views in NAMES:
        config = EvaluationConfig(views=views, workers=0)  # type: ignore[arg-type]
        details = evaluate(loaded, source, config=config).details
        assert details.get("views") == (None if views == "single" else views)
    with pytest.raises(EvaluationError, match="views must be one of single, mirror, mirror_shift"):
        EvaluationConfig(views="six")  # type: ignore[arg-type]


def test_a_cache_keeps_views_apart(trained_directory: Path, tmp_path: Path) -> None:
    loaded = load_for_evaluation(trained_directory)
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    stores, features = set(), {}
    for views in NAMES:
        encoder = make_encoder(loaded, device="cpu", cache=tmp_path, views=views)  # type: ignore[arg-type]
        assert encoder.image_store is not None
        stores.add(encoder.image_store.directory)
        features[views] = encoder.encode_images(pixels)
        assert torch.allclose(features[views].norm(dim=1), torch.ones(3))
    assert len(stores) == 3
    plain = dataclasses.replace(loaded)
    assert torch.equal(make_encoder(plain, device="cpu").encode_images(pixels), features["single"])
    one = make_encoder(plain, device="cpu")
    both = one.encode_images(pixels) + one.encode_images(pixels.flip(-1))
    assert torch.allclose(features["mirror"], normalize(both, dim=1), atol=1e-6)

"""Models of images in their own aspect ratio: each image as by itself, whatever its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_eval.data import BadImage, open_source, read_image_size
from clip_eval.encoding.batches import LoaderConfig
from clip_eval.encoding.embed import embed_images
from clip_eval.encoding.encoder import Encoder
from clip_eval.errors import EvaluationError
from clip_models import CLIP, CLIPConfig, Preprocess
from clip_models.config import PreprocessConfig, TextConfig, ViTConfig
from clip_tokenizer import Tokenizer
from PIL import Image

SHAPES = [(40, 40), (90, 30), (30, 64), (16, 16), (33, 80)]


def make_encoder(cache: Path | None = None, **options: object) -> Encoder:
    torch.manual_seed(0)
    small = {"width": 16, "num_layers": 2, "num_heads": 2}
    config = CLIPConfig(
        embed_dim=8,
        vision=ViTConfig(image_size=32, patch_size=8, native=True, **small),
        text=TextConfig(context_length=12, vocab_size=514, **small),
    )
    preprocess = PreprocessConfig(resize_mode="native", patch_size=8, max_tokens=20)
    tokenizer = Tokenizer.from_bytes(context_length=12)
    return Encoder(CLIP(config).eval(), tokenizer, Preprocess(preprocess), cache=cache, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    numbers = np.random.default_rng(0)
    for index in range(12):
        width, height = SHAPES[index % len(SHAPES)]
        pixels = numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)
        place = tmp_path / "images" / str(index % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index:02}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_those_of_single_images(folder: Path, workers: int, tmp_path: Path) -> None:
    encoder, source = make_encoder(tmp_path / "cache"), open_source(f"imagefolder:{folder}")
    loader = LoaderConfig(batch_size=5, workers=workers)
    batches = list(embed_images([encoder], source, loader))
    found = torch.cat([features for _, (features,) in batches])
    keys = [sample.key for batch, _ in batches for sample in batch.samples]
    for key, feature in zip(keys, found, strict=True):
        pixels = encoder.preprocess(Image.open(folder / key).convert("RGB"))
        alone = encoder.encode_images(pixels[None])[0]
        torch.testing.assert_close(feature, alone, atol=1e-5, rtol=0)
    again = torch.cat([features for _, (features,) in embed_images([encoder], source, loader)])
    assert torch.equal(again, found)  # of the cache


def test_several_views_are_refused(folder: Path) -> None:
    encoder = make_encoder(views="mirror")
    source = open_source(f"imagefolder:{folder}")
    with pytest.raises(EvaluationError, match="have one view, got views 'mirror'"):
        list(embed_images([encoder], source, LoaderConfig(batch_size=4)))


def test_sizes_are_read_from_headers(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    image.save(tmp_path / "turned.jpg", exif=exif)
    data = (tmp_path / "turned.jpg").read_bytes()
    assert read_image_size(data) == (30, 20)
    assert read_image_size(data, exif_orientation=True) == (20, 30)
    assert read_image_size(image) == (30, 20)
    for broken in (b"", b"nothing", b"\x89PNG nothing"):
        with pytest.raises(BadImage):
            read_image_size(broken)

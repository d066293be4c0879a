"""Model directories: read by other libraries, with the files of a user untouched."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from clip_models import (
    CLIP,
    CheckpointError,
    CLIPConfig,
    create_model,
    create_model_and_transforms,
    get_config,
    load_model,
    save_pretrained,
)
from clip_models.config import PreprocessConfig, TextConfig, ViTConfig
from PIL import Image
from torch import Tensor

with warnings.catch_warnings():  # of the modules that transformers imports
    warnings.simplefilter("ignore")
    from transformers import AutoImageProcessor, CLIPModel, SiglipModel

SIZES = {"width": 64, "num_layers": 2, "num_heads": 1}
TEXT_SIZES = {"context_length": 9, "vocab_size": 50, "width": 16, "num_layers": 2, "num_heads": 2}
VIT = ViTConfig(image_size=32, patch_size=8, **SIZES)
TEXT = TextConfig(**TEXT_SIZES)
PLAIN = CLIPConfig(embed_dim=12, vision=VIT, text=TEXT)
PREPROCESS = PreprocessConfig(size=32, mean=(0.1, 0.2, 0.3), interpolation="bilinear")
OPEN_CLIP = (
    '{"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": %s}'
)


def small_siglip() -> CLIPConfig:
    config = get_config("ViT-B-16-SigLIP")
    return dataclasses.replace(
        config,
        embed_dim=64,
        vision=dataclasses.replace(config.vision, image_size=32, patch_size=8, **SIZES),
        text=dataclasses.replace(config.text, **TEXT_SIZES),
    )


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def model_of(config: CLIPConfig) -> CLIP:
    torch.manual_seed(0)
    return CLIP(config).eval()


def tokens() -> Tensor:
    ids = torch.randint(1, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    ids[torch.arange(3), torch.tensor([3, 8, 5])] = 49
    return ids


@torch.no_grad()
def features(model: CLIP) -> tuple[Tensor, Tensor]:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return model.encode_image(images), model.encode_text(tokens())


def assert_same(ours: CLIP, theirs: CLIP) -> None:
    for mine, other in zip(features(ours), features(theirs), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("siglip", [False, True], ids=["clip", "siglip"])
def test_transformers_reads_what_we_write_and_we_what_it_writes(
    tmp_path: Path, siglip: bool
) -> None:
    model = model_of(small_siglip() if siglip else PLAIN)
    preprocess = dataclasses.replace(PREPROCESS, resize_mode="squash" if siglip else "shortest")
    save_pretrained(tmp_path / "ours", model, preprocess)
    theirs = (SiglipModel if siglip else CLIPModel).from_pretrained(tmp_path / "ours").eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = theirs.get_image_features(images), theirs.get_text_features(tokens())
    for ours, output in zip(features(model), outputs, strict=True):
        torch.testing.assert_close(
            ours, getattr(output, "pooler_output", output), atol=1e-5, rtol=0
        )
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    pixels = processor(picture(), return_tensors="pt")["pixel_values"][0]
    evaluate = create_model_and_transforms(tmp_path / "ours").evaluate
    torch.testing.assert_close(pixels, evaluate(picture()), atol=2 / 255 / 0.26, rtol=0)

    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    processor.save_pretrained(tmp_path / "theirs")
    back = create_model_and_transforms(tmp_path / "theirs")
    assert_same(back.model, model)
    assert back.evaluate.config == preprocess


@pytest.mark.parametrize("projection", ["linear", "linear_bias", "none"])
def test_open_clip_reads_what_we_write_and_we_what_it_writes(
    tmp_path: Path, projection: Any
) -> None:
    text = dataclasses.replace(TEXT, projection=projection)
    model = model_of(CLIPConfig(embed_dim=TEXT.width, vision=VIT, text=text))
    save_pretrained(tmp_path / "ours", model, PREPROCESS)
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'ours'}")
    theirs.eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = theirs.encode_image(images), theirs.encode_text(tokens())
    for ours, other in zip(features(model), outputs, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=0)
    evaluate = create_model_and_transforms(tmp_path / "ours").evaluate
    assert torch.equal(transform(picture()), evaluate(picture()))

    written = json.loads((tmp_path / "ours" / "open_clip_config.json").read_text())
    other = tmp_path / "theirs"
    other.mkdir()
    (other / "open_clip_config.json").write_text(json.dumps(written))
    torch.save(theirs.state_dict(), other / "open_clip_pytorch_model.bin")
    back = create_model_and_transforms(other)
    assert_same(back.model, model)
    assert back.evaluate.config == PREPROCESS


def test_what_is_written(tmp_path: Path) -> None:
    model = model_of(PLAIN)
    (tmp_path / "vocab.txt").write_text("words")
    written = save_pretrained(
        tmp_path / "out",
        model,
        PREPROCESS,
        files=[tmp_path / "vocab.txt"],
        license="mit",
        description="Trained on shapes.",
    )
    assert sorted(path.name for path in written) == sorted(
        path.name for path in (tmp_path / "out").iterdir()
    )
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("license: mit", "Trained on shapes.", "library_name: open_clip", "32 px"):
        assert words in card
    with pytest.raises(
        CheckpointError, match=r"already has clip_config\.json, .*nothing was written"
    ):
        save_pretrained(tmp_path / "out", model, PREPROCESS)
    save_pretrained(tmp_path / "out", model, PREPROCESS, overwrite=True)


def test_no_file_of_the_replaced_model_stays(tmp_path: Path) -> None:
    """open_clip and transformers, which lack the new model, would go on loading the old one."""
    save_pretrained(tmp_path, model_of(PLAIN), PREPROCESS)
    (tmp_path / "vocab.txt").write_text("words")
    other = model_of(dataclasses.replace(PLAIN, vision=dataclasses.replace(VIT, readout="average")))
    save_pretrained(tmp_path, other, PREPROCESS, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "clip_config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    assert_same(create_model(tmp_path), other)


def test_models_that_others_lack_are_written_for_this_package_only(tmp_path: Path) -> None:
    vision = dataclasses.replace(VIT, readout="average", norm_after_readout=True)
    model = model_of(dataclasses.replace(PLAIN, vision=vision))
    save_pretrained(tmp_path, model, PREPROCESS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "clip_config.json",
        "model.safetensors",
    ]
    assert_same(create_model(tmp_path), model)
    assert "open_clip" not in (tmp_path / "README.md").read_text()


def test_the_only_weight_file_may_have_any_name(tmp_path: Path) -> None:
    model = model_of(PLAIN)
    save_pretrained(tmp_path, model, PREPROCESS)
    (tmp_path / "open_clip_model.safetensors").unlink()
    (tmp_path / "model.safetensors").rename(tmp_path / "epoch_32.safetensors")
    assert_same(create_model(tmp_path), model)
    (tmp_path / "epoch_31.pt").touch()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        create_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("open_clip_config.json", "[]", "open_clip_config.json cannot be read: it is a list"),
        ("open_clip_config.json", "{", "open_clip_config.json cannot be read"),
        ("open_clip_config.json", '{"model_cfg": {"vision": 3}}', "cannot be read: unknown key"),
        (
            "config.json",
            '{"model_type": "bert"}',
            "model_type must be 'clip', 'siglip' or 'siglip2'",
        ),
        ("config.json", "[" * 100_000, "config.json cannot be read"),
        ("clip_config.json", "[" * 100_000, "clip_config.json cannot be read"),
        ("open_clip_config.json", OPEN_CLIP % "[1]", "open_clip_config.json cannot be read"),
    ],
)
def test_damaged_foreign_configs(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rescale_factor": 1.0}, "rescale_factor must be 1/255"),
        ({"resample": 5}, "resample must be one of"),
        ({"image_mean": [1, 2]}, "mean must have 3 entries, got 2"),
        ({"size": {"shortest_edge": 40}}, "size is 40 and crop_size 32; they must be equal"),
        ({"size": {"height": 32, "width": 40}}, "size must be one number or equal sides"),
        ({"resample": []}, "cannot be read"),
    ],
)
def test_transforms_that_cannot_be_described(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    save_pretrained(tmp_path, model_of(PLAIN), PREPROCESS)
    for name in ("clip_config.json", "open_clip_config.json"):
        (tmp_path / name).unlink()
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)


def test_a_user_written_card_stays(tmp_path: Path) -> None:
    card, model = tmp_path / "README.md", CLIP(PLAIN)
    card.write_text("My words.")
    assert card not in save_pretrained(tmp_path, model, PREPROCESS)
    save_pretrained(tmp_path, model, PREPROCESS, overwrite=True)
    assert card.read_text() == "My words."
    card.unlink()
    save_pretrained(tmp_path, model, PREPROCESS, overwrite=True, description="The first.")
    assert card in save_pretrained(
        tmp_path, model, PREPROCESS, overwrite=True, description="The second."
    )
    assert "The second." in card.read_text()


def test_existing_files_stay(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("words")
    written = save_pretrained(tmp_path, CLIP(PLAIN), PREPROCESS, files=[tokenizer])
    assert tokenizer not in written
    save_pretrained(tmp_path, CLIP(PLAIN), PREPROCESS, files=[tokenizer], overwrite=True)
    assert tokenizer.read_text() == "words"
    other = tmp_path / "deeper" / "tokenizer.json"
    other.parent.mkdir()
    other.write_text("others")
    with pytest.raises(CheckpointError, match=r"already has .*tokenizer\.json; nothing was"):
        save_pretrained(tmp_path, CLIP(PLAIN), PREPROCESS, files=[other])

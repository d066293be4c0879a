"""docs/journeys/from-open-clip.md: a command of open_clip's README to a model that it loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import conftest
import torch
from clip_models import create_model_and_transforms
from clip_tokenizer import get_tokenizer
from clip_train import load_config
from pages import Page
from PIL import Image


def test_a_published_command_becomes_a_run_and_a_model_for_open_clip(
    photos: Callable[..., Path], class_folders: Callable[..., Path]
) -> None:
    photos(24)
    class_folders("imagenet")
    flags = {"clip-train run": f"{conftest.TINY_RESNET} --model.vision.image_size 64"}
    names = Page("docs/journeys/from-open-clip.md", flags=flags).run()

    config = load_config("mine.toml")
    assert (config.model.name, config.train.batch_size, config.train.epochs) == ("RN50", 2560, 30)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.eps) == (5e-4, 0.1, 1e-8)
    assert (config.data.train, config.data.val) == ("csv:captions.csv", "imagefolder:imagenet/val")
    assert Path("results/result.json").is_file()

    model, _, transform = create_model_and_transforms("run")
    image, text = transform(Image.open("photos/0001.jpg"))[None], "a red circle"
    theirs = names["model"].eval()
    with torch.no_grad():
        ours = model(image, get_tokenizer("run")([text]))
        pixels = names["preprocess"](Image.open("photos/0001.jpg"))[None]
        assert torch.allclose(
            theirs.encode_image(pixels, normalize=True), ours.image_features, atol=1e-5
        )
        features = theirs.encode_text(names["tokenizer"]([text]), normalize=True)
        assert torch.allclose(features, ours.text_features, atol=1e-5)

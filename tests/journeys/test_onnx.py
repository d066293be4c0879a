"""packages/clip-models/docs/export.md, from a run: ONNX graphs and onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from clip_models import create_model_and_transforms
from clip_tokenizer import get_tokenizer
from clip_train.cli.main import main
from pages import SMALL, Page
from PIL import Image


@pytest.mark.slow  # tests/test_exported_models.py runs the page on a model without training
def test_a_run_answers_in_onnxruntime(photos: Callable[..., Path]) -> None:
    pytest.importorskip("onnxruntime")
    photos(24)
    words = "run photos-small --data.train csv:captions.csv --data.holdout 0.3 --out run"
    small = f"{SMALL['clip-train run']} {conftest.TINY_VIT} --tokenizer.vocab_size 600"
    assert main(f"{words} {small} --model.vision.image_size 32".split()) == 0
    swap = {"vit-b-32": "run", "photo.jpg": "photos/0001.jpg", 'to="onnx"': 'to="torchscript"'}
    names = Page(
        "packages/clip-models/docs/export.md", swap=swap | {'"exported", ': '"again", '}
    ).run()

    model, _, transform = create_model_and_transforms("run")
    texts = ["a photo of a cat", "a photo of a dog"]
    with torch.no_grad():
        output = model(transform(Image.open("photos/0001.jpg"))[None], get_tokenizer("run")(texts))
    for ours, name in (
        (output.image_features, "image_features"),
        (output.text_features, "text_features"),
    ):
        assert np.allclose(names[name], ours.numpy(), atol=1e-4), name
    logits = output.logit_scale * output.image_features @ output.text_features.T
    assert np.allclose(names["chances"], logits.softmax(dim=1).numpy(), atol=1e-4)
    assert Path("exported/image.onnx").is_file()

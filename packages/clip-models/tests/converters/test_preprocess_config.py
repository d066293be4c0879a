"""`preprocessor_config.json`: what transformers' image processors do, or a refusal."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from clip_models import ConfigError
from clip_models.converters.preprocess_config import from_hugging_face_preprocess
from clip_models.preprocess import EvaluationTransform
from PIL import Image

with warnings.catch_warnings():  # of the modules that transformers imports
    warnings.simplefilter("ignore")
    from transformers import CLIPImageProcessor

SQUARE = {"height": 24, "width": 24}


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        ({"size": {"shortest_edge": 24}, "crop_size": SQUARE}, "shortest"),
        ({"size": SQUARE, "crop_size": SQUARE, "do_center_crop": True}, "squash"),
        (
            {"size": SQUARE, "crop_size": {"height": 9, "width": 9}, "do_center_crop": False},
            "squash",
        ),
        ({"size": SQUARE, "crop_size": None, "do_center_crop": None}, "squash"),
    ],
)
def test_images_become_the_same(values: dict[str, Any], mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    config = from_hugging_face_preprocess(values, 24)
    assert config.resize_mode == mode
    ours = EvaluationTransform(config)(Image.fromarray(pixels))
    theirs = CLIPImageProcessor(**values)(pixels, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)  # they round once more


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"do_resize": False}, "do_resize must be true"),
        ({"size": {"shortest_edge": 24}, "do_center_crop": None}, "do_center_crop must be true"),
        ({"size": {"shortest_edge": 24}, "do_center_crop": False}, "do_center_crop must be true"),
        ({"size": 24, "do_center_crop": False}, "do_center_crop must be true"),
        ({"size": SQUARE, "crop_size": 20, "do_center_crop": True}, "size is 24 and crop_size 20"),
    ],
)
def test_what_is_not_computed_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_hugging_face_preprocess(values, 24)

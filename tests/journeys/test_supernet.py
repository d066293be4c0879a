"""docs/journeys/supernet.md: smaller models on the weights of an open_clip model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
from osf_supernet import count_parameters
from pages import Page

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"width": 32, "layers": 2, "heads": 2},
}


def test_a_model_of_open_clip_shrinks(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders("pets")
    configs = {**open_clip.factory._MODEL_CONFIGS, "tiny": TINY}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
    names = Page(
        "docs/journeys/supernet.md",
        swap={
            '"ViT-B-32", "laion2b_s34b_b79k"': '"tiny", None',
            "range(1000)": "range(2)",
            "[:64]": "[:4]",
        },
    ).run()
    assert type(names["small"]) is type(names["model"])
    assert count_parameters(names["small"]) <= 0.8 * count_parameters(names["model"])
    assert names["result"].n == 12

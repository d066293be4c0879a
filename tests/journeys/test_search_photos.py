"""docs/journeys/search-photos.md: a thousand photographs, embedded and searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clip_eval import read_embeddings
from pages import Page


def test_a_thousand_photographs_are_found(
    photos: Callable[..., Path], tiny_clip: Callable[..., Path]
) -> None:
    pytest.importorskip("faiss")
    photos(1000)
    tiny_clip("model", to="clip-models")
    own = {"open_clip:ViT-B-32:laion2b_s34b_b79k": "model"}
    names = Page("docs/journeys/search-photos.md", swap=own).run()

    keys, features = read_embeddings("photos.npz")
    assert len(keys) == 1000
    assert names["nearest"][0].key.endswith("0001.jpg")
    row = features[next(n for n, key in enumerate(keys) if key.endswith("0001.jpg"))]
    best = np.argsort(-features @ row, kind="stable")[:5]
    found = json.loads(Path("like-it.json").read_text())
    assert [one["key"] for one in found["found"]] == [keys[number] for number in best]
    assert Path("found.html").read_text().count("data:image/") == 24
    assert Path("photos.faiss").is_file()

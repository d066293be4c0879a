"""docs/journeys/fine-tune.md: photographs and captions to a model that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from clip_models import create_model_and_transforms
from clip_tokenizer import Tokenizer
from pages import Page
from PIL import Image


def test_photographs_and_captions_become_a_model_for_transformers(
    photos: Callable[..., Path], tiny_clip: Callable[..., Path]
) -> None:
    photos(48)
    tiny_clip("openai/clip-vit-base-patch32")
    page = Page(
        "docs/journeys/fine-tune.md",
        swap={"hf-hub:openai/clip": "openai/clip"},  # a directory with a tiny one
        flags={"clip-train run": "--lr 1e-3 --data.holdout 0.3"},
    )
    names = page.run()

    trained = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    last = [row for row in trained if row["kind"] == "eval"][-1]
    result = json.loads(next(Path("report/run").rglob("result.json")).read_text())
    assert last["n"] == result["n"] > 4
    for name in ("image_retrieval_recall@1", "text_retrieval_recall@5"):
        assert result["metrics"][name] == pytest.approx(last[name])
    assert Path("report/family.html").is_file()

    model, _, transform = create_model_and_transforms("run")
    tokens = Tokenizer.from_pretrained("run")(names["labels"])
    with torch.no_grad():
        output = model(transform(Image.open("photos/0001.jpg"))[None], tokens)
    logits = output.logit_scale * output.image_features @ output.text_features.T
    theirs = {answer["label"]: answer["score"] for answer in names["answers"]}
    for label, score in zip(names["labels"], logits.softmax(dim=1)[0], strict=True):
        assert theirs[label] == pytest.approx(float(score), abs=2e-3)

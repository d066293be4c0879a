"""packages/clip-train/docs/features.md: a pooled CLIP in a training loop of one's own."""

from __future__ import annotations

import json
from pathlib import Path

from clip_models import load_model
from pages import Page

FEATURES = "packages/clip-train/docs/features.md"


def test_a_pooled_clip_is_trained_in_one_s_own_loop_and_evaluated() -> None:
    Page(FEATURES, section="One small example of each feature").run()  # draws the shapes
    Page(FEATURES, section="Token pooling").run()
    names = Page(FEATURES, section="In a training loop of one's own").run()

    pooled, _ = load_model("pooled")
    own, _ = load_model("own")
    assert pooled.config.vision.pooling is not None
    assert own.config == names["model"].config == pooled.config
    assert set(names["out"].losses) <= {"vision.pooling"}
    result = json.loads(Path("own-results/result.json").read_text())
    assert result["n"] == result["n_classes"] == 144

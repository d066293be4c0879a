"""docs/journeys/prune.md: a network of one's own at half of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from osf_supernet import count_parameters
from pages import Page


def test_a_cnn_of_one_s_own_is_pruned_to_half(class_folders: Callable[..., Path]) -> None:
    class_folders("pets")
    page = Page(
        "docs/journeys/prune.md",
        swap={"steps=200": "steps=8", "steps=50": "steps=2"},
    )
    names = page.run()
    assert count_parameters(names["small"]) <= 0.5 * count_parameters(names["net"])
    assert type(names["small"]).__name__ == "Net"
    assert sorted(path.name for path in Path("small").iterdir()) == [
        "model.safetensors",
        "osf.json",
    ]

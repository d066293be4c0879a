"""The index of the journeys: every page is in it, and a test runs every page that it names."""

from __future__ import annotations

import re
from pathlib import Path

from pages import ROOT

INDEX = ROOT / "docs" / "journeys"
NAMED = re.findall(r"\| \[[^]]+\]\(([^)#]+)", (INDEX / "README.md").read_text(encoding="utf-8"))
TESTS = [file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py")]


def test_twelve_pages_are_named_and_run() -> None:
    paths = [(INDEX / name).resolve().relative_to(ROOT).as_posix() for name in NAMED]
    assert len(set(paths)) == 12
    assert {f"docs/journeys/{file.name}" for file in INDEX.glob("*.md")} - set(paths) == {
        "docs/journeys/README.md"
    }
    for path in paths:
        assert any(f'"{path}"' in text for text in TESTS), path

"""The five originals with their rows, and the page they make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cifar_rows
import clipa_rows
import corenet_rows
import fast_clip_rows
import osf_rows
import page

PAGE = Path(__file__).parents[2] / "docs" / "originals.md"
SYSTEMS = {
    "OFM": osf_rows.ROWS,
    "CLIP for CIFAR-10": cifar_rows.ROWS,
    "Fast-CLIP": fast_clip_rows.ROWS,
    "CLIPA": clipa_rows.ROWS,
    "CoreNet": corenet_rows.ROWS,
}
ABOUT = {
    "OFM": osf_rows.ABOUT,
    "CLIP for CIFAR-10": cifar_rows.ABOUT,
    "Fast-CLIP": fast_clip_rows.ABOUT,
    "CLIPA": clipa_rows.ABOUT,
    "CoreNet": corenet_rows.ABOUT,
}
HEAD = """# Where one comes from

Five systems did parts of what these packages do. For each of their scripts, flags, functions and
promises this page has the command or program that takes its place, at a size that runs in seconds.
`pytest tests/originals -m "" --write-page` runs every row and writes the page; the tests run them
again and compare. `yes`: it ran, and what it should give was checked. `partly` and `no`: what is
missing, which is shown as well.
"""


def text_of(verdicts: Mapping[page.Row, str]) -> str:
    """The page."""
    parts = [HEAD]
    for name, rows in SYSTEMS.items():
        parts.append(f"\n## {name}\n\n{ABOUT[name]}\n\n| there | here | verdict |\n|---|---|---|\n")
        parts += [f"{page.line(row, verdicts.get(row, 'fails: not run'))}\n" for row in rows]
    return "".join(parts)


def read_verdicts() -> dict[page.Row, str]:
    """The verdicts on the page, of the rows that it has."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []
    rows = [text.rsplit("|", 2) for text in lines if text.startswith("| ")]
    known = {before.rstrip(): verdict.strip() for before, verdict, _ in rows}
    every = [row for rows in SYSTEMS.values() for row in rows]
    before = {row: page.line(row, "").rsplit("|", 2)[0].rstrip() for row in every}
    return {row: known[text] for row, text in before.items() if text in known}


def skeleton(text: str | None = None) -> list[str]:
    """The lines of the page without its verdicts."""
    if text is None:
        text = text_of(dict.fromkeys((row for rows in SYSTEMS.values() for row in rows), ""))
    lines = text.splitlines()
    return [line.rsplit("|", 2)[0].rstrip() if line.startswith("| ") else line for line in lines]

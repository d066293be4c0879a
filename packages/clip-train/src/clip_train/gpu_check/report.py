"""The outcomes of all checks as one JSON file and one page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from clip_train.gpu_check.figures import Figure, Outcome
from clip_train.logs.files import replace_text

JSON_NAME, PAGE_NAME = "gpu.json", "gpu.md"


def write_report(directory: Path, outcomes: Sequence[Outcome], missing: Sequence[str]) -> None:
    """Write `gpu.json` and `gpu.md`.

    Args:
        directory: Where to.
        outcomes: In order.
        missing: Checks for which the time did not suffice.
    """
    values = {"outcomes": [asdict(outcome) for outcome in outcomes], "missing": list(missing)}
    replace_text(directory / JSON_NAME, json.dumps(values, indent=1))
    replace_text(directory / PAGE_NAME, "\n".join(_page(outcomes, missing)))


def count_faults(outcomes: Sequence[Outcome]) -> int:
    """How many checks failed, and how many figures are beyond their limits."""
    broken = sum(outcome.error is not None for outcome in outcomes)
    return broken + sum(f.holds is False for outcome in outcomes for f in outcome.figures)


def _page(outcomes: Sequence[Outcome], missing: Sequence[str]) -> list[str]:
    lines = ["# GPU check", ""]
    if outcomes:
        lines += [f"- {name}: {value}" for name, value in outcomes[-1].machine.items()]
    faults = count_faults(outcomes)
    lines += ["", f"{len(outcomes)} checks, {faults} faults, {len(missing)} not reached.", ""]
    lines += [
        f"- **{outcome.check}** failed: {outcome.error}" for outcome in outcomes if outcome.error
    ]
    lines += [f"- **{name}** was not reached." for name in missing]
    for outcome in outcomes:
        if outcome.figures:
            lines += ["", f"## {outcome.check} ({outcome.seconds:.0f} s)", ""]
            lines += ["| what | figure | beside it | ratio | limit |", "|---|---|---|---|---|"]
            lines += [_row(figure) for figure in outcome.figures]
    return [*lines, ""]


def _row(figure: Figure) -> str:
    value = "–" if figure.value is None else f"{figure.value:.4g} {figure.unit}".strip()
    peer = "" if figure.peer is None else f"{figure.peer:.4g} {figure.peer_name}".strip()
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    limit = "" if figure.limit is None else f"{figure.limit:g}"
    if figure.holds is not None:
        limit += ": holds" if figure.holds else ": **exceeded**"
    what = f"{figure.what} ({figure.note})" if figure.note else figure.what
    return f"| {what} | {value} | {peer} | {ratio} | {limit} |"

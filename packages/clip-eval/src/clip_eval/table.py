"""A result as text for a terminal."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from clip_eval.results import ClassScore, Result

WORST_CLASSES = 5


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage, an en dash where there is none."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def worst_classes(result: Result, limit: int = WORST_CLASSES) -> list[ClassScore]:
    """Classes with the lowest accuracy, lowest first; those without samples are left out."""
    scored = [score for score in result.per_class if score.accuracy is not None]
    return sorted(scored, key=lambda score: score.accuracy or 0.0)[:limit]


def format_result(result: Result) -> str:
    """The result as lines: what was measured, the numbers, and what to beware of."""
    interval = result.ci95["acc1"]
    band = f"95 % interval {percent(interval[0])} to {percent(interval[1])}" if interval else ""
    rows = [
        ("model", result.model),
        ("data", result.dataset),
        ("accuracy", f"{percent(result.metrics['acc1'])}   {band}"),
        ("chance", f"{percent(result.chance)}   {result.n_classes} classes"),
        ("top 5", percent(result.metrics["acc5"])),
        ("mean per class", percent(result.metrics["mean_per_class_recall"])),
        ("images", f"{result.n:,} used, {result.n_skipped:,} skipped{_reasons(result)}"),
        ("templates", _shorten(result.templates)),
        ("time", _speed(result)),
    ]
    lines = _align([(name, value.rstrip()) for name, value in rows if value.strip()])
    lines += _worst(result)
    lines += [f"damaged: {fault}" for fault in result.faults]
    lines += [f"warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)


def _worst(result: Result) -> list[str]:
    scores = [s for s in worst_classes(result) if s.accuracy is not None and s.accuracy < 1]
    if not scores or result.n_classes < 2:
        return []
    rows = [(f"  {s.name}", f"{percent(s.accuracy):>7}  {s.correct} of {s.n}") for s in scores]
    return ["worst classes", *_align(rows)]


def _reasons(result: Result) -> str:
    counts = Counter(skipped.reason for skipped in result.skipped)
    words = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return f" ({words})" if words else ""


def _shorten(templates: Sequence[str], limit: int = 3) -> str:
    shown = ", ".join(f"'{template}'" for template in templates[:limit])
    return f"{shown} and {len(templates) - limit} more" if len(templates) > limit else shown


def _speed(result: Result) -> str:
    if not result.seconds:
        return ""
    return f"{result.seconds:.1f} s, {result.n / result.seconds:,.0f} images/s"


def _align(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((display_width(name) for name, _ in rows), default=0)
    return [f"{name}{' ' * (width - display_width(name))}  {value}" for name, value in rows]


def display_width(text: str) -> int:
    """Columns a text takes in a terminal (wide characters count twice, combining ones not)."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )

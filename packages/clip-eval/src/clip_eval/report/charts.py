"""Charts as inline SVG: the reliability of probabilities, and accuracy against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from clip_eval.metrics.functions import CalibrationBin
from clip_eval.report.table import percent

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 300, 54, 38, 12, 16


class Point(NamedTuple):
    """One model in a scatter chart: its cost, its accuracy (0 to 1) and the accuracy's interval."""

    name: str
    x: float
    y: float
    interval: tuple[float, float] | None


def reliability_chart(bins: Sequence[CalibrationBin]) -> str:
    """Accuracy against probability; on the diagonal, a model knows how sure it may be."""
    most = max((b.n for b in bins), default=1) or 1
    bars = []
    for b in bins:
        if not b.n:
            continue
        left, right = _x(b.low), _x(b.high)
        top = _y(b.accuracy)
        bars.append(
            f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
            f'height="{_y(0) - top:.1f}" class="c-bar" opacity="{0.35 + 0.65 * b.n / most:.2f}">'
            f"<title>{b.n:,} images, said {percent(b.confidence)}, right {percent(b.accuracy)}"
            "</title></rect>"
            f'<circle cx="{_x(b.confidence):.1f}" cy="{top:.1f}" r="3" class="c-dot"/>'
        )
    diagonal = f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" class="c-guide"/>'
    return _svg(
        "reliability diagram",
        "".join(bars) + diagonal,
        [(x, percent(x, 0)) for x in (0, 0.25, 0.5, 0.75, 1)],
        [(y, percent(y, 0)) for y in (0, 0.25, 0.5, 0.75, 1)],
        "probability of the first guess",
        "share right",
    )


def cost_chart(points: Sequence[Point], label: str) -> str:
    """Accuracy against a cost on a logarithmic axis, with intervals."""
    usable = [p for p in points if p.x > 0]
    if not usable:
        return ""
    low_x, high_x = min(p.x for p in usable) / 1.5, max(p.x for p in usable) * 1.5
    spans = [p.interval or (p.y, p.y) for p in usable]
    low_y = max(0.0, min(low for low, _ in spans) - 0.03)
    high_y = min(1.0, max(high for _, high in spans) + 0.03)

    def place(point: Point) -> tuple[float, float]:
        across = math.log(point.x / low_x) / math.log(high_x / low_x)
        return _x(across), _y((point.y - low_y) / (high_y - low_y))

    marks = []
    for point in usable:
        x, y = place(point)
        if point.interval:
            ends = [_y((v - low_y) / (high_y - low_y)) for v in point.interval]
            marks.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" '
                'class="c-error"/>'
            )
        side, shift = ("end", -8) if x > WIDTH * 0.6 else ("start", 8)
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="c-dot">'
            f"<title>{escape(point.name)}: {percent(point.y)}</title></circle>"
            f'<text x="{x + shift:.1f}" y="{y - 6:.1f}" text-anchor="{side}">'
            f"{escape(_short(point.name))}</text>"
        )
    ticks = [low_x * (high_x / low_x) ** (n / 3) for n in range(4)]
    rows = [low_y + (high_y - low_y) * n / 4 for n in range(5)]
    return _svg(
        f"accuracy against {label}",
        "".join(marks),
        [(n / 3, _number(value)) for n, value in enumerate(ticks)],
        [(n / 4, percent(value)) for n, value in enumerate(rows)],
        label,
        "",
    )


def _svg(
    name: str,
    body: str,
    columns: Sequence[tuple[float, str]],
    rows: Sequence[tuple[float, str]],
    below: str,
    beside: str,
) -> str:
    grid = "".join(
        f'<line x1="{_x(0)}" x2="{_x(1)}" y1="{_y(y):.1f}" y2="{_y(y):.1f}" class="c-grid"/>'
        f'<text x="{LEFT - 6}" y="{_y(y) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for y, text in rows
    ) + "".join(
        f'<text x="{_x(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}'
        "</text>"
        for x, text in columns
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    titles = f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(below)}</text>'
    if beside:
        titles += (
            f'<text x="12" y="{TOP + 90}" text-anchor="middle" '
            f'transform="rotate(-90 12 {TOP + 90})">{escape(beside)}</text>'
        )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(name)}">{grid}{body}{titles}</svg>'
    )


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _number(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else f"…{name[1 - limit :]}"

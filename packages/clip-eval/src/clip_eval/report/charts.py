"""Charts as inline SVG: the reliability of probabilities, and accuracy against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from markupsafe import Markup

from clip_eval.metrics.functions import CalibrationBin
from clip_eval.report.rendering import render_fragment
from clip_eval.report.table import percent

MAX_NAME = 26


class Point(NamedTuple):
    """One model in a scatter chart: its cost, its accuracy (0 to 1) and the accuracy's interval."""

    name: str
    x: float
    y: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The plotting area of a chart, with its axes.

    Attributes:
        name: Name of the chart, for screen readers.
        columns: Position and label of each tick of the horizontal axis.
        rows: Position and label of each tick of the vertical axis.
        below: Title of the horizontal axis.
        beside: Title of the vertical axis.
    """

    width: ClassVar[int] = 420
    height: ClassVar[int] = 300
    left: ClassVar[int] = 54
    right: ClassVar[int] = width - 16
    top: ClassVar[int] = 12
    bottom: ClassVar[int] = height - 38
    middle: ClassVar[float] = (left + right) / 2

    name: str
    columns: Sequence[tuple[float, str]]
    rows: Sequence[tuple[float, str]]
    below: str
    beside: str = ""


def reliability_chart(bins: Sequence[CalibrationBin]) -> Markup:
    """Draw accuracy against probability; a calibrated model lies on the diagonal."""
    most = max((b.n for b in bins), default=1) or 1
    bars = [
        {
            "bin": b,
            "x": _x(b.low) + 1,
            "width": _x(b.high) - _x(b.low) - 2,
            "y": _y(b.accuracy),
            "middle": _x(b.confidence),
            "opacity": 0.35 + 0.65 * b.n / most,
        }
        for b in bins
        if b.n
    ]
    shares = (0, 0.25, 0.5, 0.75, 1)
    frame = Frame(
        name="reliability diagram",
        columns=[(_x(share), percent(share, 0)) for share in shares],
        rows=[(_y(share), percent(share, 0)) for share in shares],
        below="confidence (probability of the first guess)",
        beside="accuracy",
    )
    return render_fragment("reliability.svg.j2", frame=frame, bars=bars)


def cost_chart(points: Sequence[Point], label: str) -> Markup:
    """Draw accuracy against a cost on a logarithmic axis, with intervals; empty without points."""
    usable = [point for point in points if point.x > 0]
    if not usable:
        return Markup()
    low_x, high_x = min(p.x for p in usable) / 1.5, max(p.x for p in usable) * 1.5
    spans = [p.interval or (p.y, p.y) for p in usable]
    low_y = max(0.0, min(low for low, _ in spans) - 0.03)
    high_y = min(1.0, max(high for _, high in spans) + 0.03)

    def down(value: float) -> float:
        return _y((value - low_y) / (high_y - low_y))

    marks = []
    for point in usable:
        x = _x(math.log(point.x / low_x) / math.log(high_x / low_x))
        marks.append(
            {
                "point": point,
                "x": x,
                "y": down(point.y),
                "interval": point.interval and tuple(map(down, point.interval)),
                "is_left": x > Frame.width * 0.6,
                "label": _shorten(point.name),
            }
        )
    values = [low_y + (high_y - low_y) * n / 4 for n in range(5)]
    frame = Frame(
        name=f"accuracy against {label}",
        columns=[(_x(n / 3), _number(low_x * (high_x / low_x) ** (n / 3))) for n in range(4)],
        rows=[(_y(n / 4), percent(value)) for n, value in enumerate(values)],
        below=label,
    )
    return render_fragment("cost.svg.j2", frame=frame, marks=marks)


def _x(share: float) -> float:
    return Frame.left + share * (Frame.right - Frame.left)


def _y(share: float) -> float:
    return Frame.bottom - share * (Frame.bottom - Frame.top)


def _number(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"

"""The Pareto front of a search as a picture (`pip install osf-supernet[plot]`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from osf_supernet.output_files import replace_file
from osf_supernet.search.result import Candidate, SearchResult

_LABELS = {"params": "parameters", "flops": "operations", "latency_ms": "milliseconds"}


def draw_front(result: SearchResult, path: str | Path, score_name: str = "score") -> None:
    """Write a picture of score against cost: all candidates, the front and the greedy front.

    Args:
        result: What a search found.
        path: File to write; its suffix says the format (svg, png, pdf).
        score_name: Label of the score's axis.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, MaxNLocator
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install osf-supernet[plot]") from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    cost = result.cost
    axes.scatter(
        [c.cost(cost) for c in result.candidates],
        [c.score for c in result.candidates],
        s=8,
        color="0.75",
        label=f"evaluated ({len(result.candidates)})",
    )
    if any(c.origin != "greedy" for c in result.candidates):
        greedy = result.greedy
        axes.plot(
            [c.cost(cost) for c in greedy],
            [c.score for c in greedy],
            "s--",
            color="tab:orange",
            markersize=4,
            label="greedy path",
        )
    front, best = result.front, result.best
    axes.plot([c.cost(cost) for c in front], [c.score for c in front], "o-", label="front")
    _mark(axes, best, cost, "*", "tab:green", f"best: {best.score:.4g}")
    if result.full is not None:
        _mark(axes, result.full, cost, "D", "black", f"full model: {result.full.score:.4g}")
    axes.set_title(f"{score_name} against {_LABELS[cost]}")
    axes.set_xlabel(_LABELS[cost])
    axes.set_ylabel(score_name)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    with replace_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:])


def _mark(axes: Any, candidate: Candidate, cost: str, marker: str, color: str, label: str) -> None:
    """One subnet, named in the legend, where labels cannot overlap."""
    axes.plot(
        [candidate.cost(cost)],
        [candidate.score],
        marker,
        color=color,
        markersize=10 if marker == "*" else 6,
        linestyle="none",
        label=f"{label}, {candidate.cost(cost):,.6g} {_LABELS[cost]}",
    )

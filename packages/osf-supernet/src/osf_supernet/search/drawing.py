"""The Pareto front of a search as a picture (`pip install osf-supernet[plot]`)."""

from __future__ import annotations

from pathlib import Path

from osf_supernet.search.result import SearchResult

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
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install osf-supernet[plot]") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    cost = result.cost
    axes.scatter(
        [c.cost(cost) for c in result.candidates],
        [c.score for c in result.candidates],
        s=8,
        color="0.7",
        label="evaluated",
    )
    for found, style, label in (
        (result.greedy, "s--", "greedy by importance"),
        (result.front, "o-", "front"),
    ):
        axes.plot([c.cost(cost) for c in found], [c.score for c in found], style, label=label)
    axes.set_xlabel(_LABELS[cost])
    axes.set_ylabel(score_name)
    axes.legend()
    figure.savefig(Path(path))

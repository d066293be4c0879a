"""Pictures by matplotlib (`pip install osf-supernet[plot]`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from osf_supernet.search import SearchResult

_LABELS = {"params": "parameters", "flops": "operations", "latency_ms": "milliseconds"}


def draw_front(result: SearchResult, path: str | Path, score_name: str = "score") -> None:
    """All candidates, the front and the greedy front: score against cost."""
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

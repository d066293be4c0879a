"""Pictures: graphs as SVG, fronts by matplotlib (`pip install osf-supernet[plot]`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from osf_supernet.graph.graph import Graph

if TYPE_CHECKING:
    from osf_supernet.search.search import SearchResult

_ROW = 18
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


def graph_to_svg(graph: Graph) -> str:
    """Groups on the left, the modules that have them on the right, lines between; no graphviz."""
    modules: dict[str, int] = {}
    lines: list[tuple[int, str, bool]] = []
    groups = list(graph.groups.values())
    for row, group in enumerate(groups):
        for module in dict.fromkeys(
            name.rpartition(".")[0] or "(root)" for name, _ in group.members
        ):
            modules.setdefault(module, len(modules))
            lines.append((row, module, group.frozen is None))
    height = _ROW * (max(len(groups), len(modules)) + 1)
    drawn = [
        f'<line x1="430" y1="{_ROW * (row + 1)}" x2="570" y2="{_ROW * (modules[module] + 1)}" '
        f'stroke="{"#1f77b4" if elastic else "#cccccc"}"/>'
        for row, module, elastic in lines
    ]
    for row, group in enumerate(groups):
        color = "black" if group.frozen is None else "#999999"
        note = "elastic" if group.frozen is None else group.frozen
        drawn.append(
            f'<text x="425" y="{_ROW * (row + 1) + 4}" text-anchor="end" fill="{color}">'
            f"{escape(group.name)} ({group.size})<title>{escape(note)}</title></text>"
        )
    drawn += [
        f'<text x="575" y="{_ROW * (row + 1) + 4}">{escape(module)}</text>'
        for module, row in modules.items()
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1000" height="{height}" '
        'font-family="Helvetica" font-size="11">\n' + "\n".join(drawn) + "\n</svg>"
    )

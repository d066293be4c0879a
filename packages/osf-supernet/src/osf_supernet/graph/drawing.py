"""A graph as an SVG picture."""

from __future__ import annotations

from xml.sax.saxutils import escape

from osf_supernet.graph.graph import Graph

_ROW = 18


def graph_to_svg(graph: Graph) -> str:
    """Groups on the left, the modules that have them on the right, lines between; no graphviz."""
    rows: dict[str, int] = {}  # of modules
    lines, labels = [], []
    for row, group in enumerate(graph.groups.values(), 1):
        note, color, stroke = group.frozen, "#999999", "#cccccc"
        if note is None:
            note, color, stroke = "elastic", "black", "#1f77b4"
        for module in dict.fromkeys(name.rpartition(".")[0] for name, _ in group.members):
            end = rows.setdefault(module or "(root)", len(rows) + 1)
            lines.append(
                f'<line x1="430" y1="{_ROW * row}" x2="570" y2="{_ROW * end}" stroke="{stroke}"/>'
            )
        labels.append(
            f'<text x="425" y="{_ROW * row + 4}" text-anchor="end" fill="{color}">'
            f"{escape(group.name)} ({group.size})<title>{escape(note)}</title></text>"
        )
    labels += [
        f'<text x="575" y="{_ROW * row + 4}">{escape(module)}</text>'
        for module, row in rows.items()
    ]
    height = _ROW * (max(len(graph.groups), len(rows)) + 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1000" height="{height}" '
        'font-family="Helvetica" font-size="11">\n' + "\n".join(lines + labels) + "\n</svg>"
    )

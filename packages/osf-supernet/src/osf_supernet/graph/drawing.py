"""A graph as an SVG picture."""

from __future__ import annotations

from xml.sax.saxutils import escape

from osf_supernet.graph.graph import Graph

_ROW = 18


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

"""A graph as a picture (SVG), and as a page with it (HTML); nothing but text is needed to draw.

Every elastic dimension is a row: its name and size, a bar as long as the share of the parameters
that have it, and how much of the bar stays at its smallest. Blocks that can be left out are boxes
with their residual path beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from osf_supernet.graph.explanation import is_minor
from osf_supernet.graph.graph import DimGroup, Graph

_COLORS = {
    "mlp": "#4e79a7",
    "heads": "#f28e2b",
    "heads_per_group": "#ffbe7d",
    "head_dim": "#edc948",
    "embed": "#59a14f",
    "channel": "#b07aa1",
    "ssm_inner": "#76b7b2",
    "free": "#9c755f",
}
_MEANINGS = {
    "mlp": "hidden units",
    "heads": "attention heads",
    "heads_per_group": "heads per group of keys",
    "head_dim": "size of a head",
    "embed": "residual width",
    "channel": "channels",
    "ssm_inner": "inner width",
    "free": "other",
}
_ROW, _LEFT, _LABEL, _BAR, _RIGHT = 20, 60, 300, 320, 330  # pixels
_WIDTH = _LEFT + _LABEL + _BAR + _RIGHT
_MOST_NOTES = 6

Choices = Mapping[str, tuple[int, ...]]


@dataclass
class _Section:
    """Groups between blocks, or those of a block that can be left out."""

    block: str | None
    groups: list[DimGroup] = field(default_factory=list)


def graph_to_svg(graph: Graph, choices: Choices | None = None, title: str = "") -> str:
    """A picture of what is elastic.

    Args:
        graph: The graph of a module.
        choices: Group or depth list → the sizes it may take, ascending, as `Supernet.choices`.
        title: The first line, such as the module's class.
    """
    choices = {} if choices is None else choices
    total = sum(_count(graph, name) for name in _unique_tensors(graph))
    shares = {g.number: _share(graph, g, total) for g in graph.groups.values()}
    known = [g for g in graph.elastic() if g.name in choices] or graph.elastic()
    longest = max([shares[g.number] for g in known], default=1.0) or 1.0
    parts, y = _head(graph, title)
    for section in _sections(graph):
        top = y
        if section.block is not None:
            inside = [n for n in _unique_tensors(graph) if n.startswith(f"{section.block}.")]
            share = sum(_count(graph, name) for name in inside) / max(1, total)
            line = f"{section.block} · {share:.1%} of the parameters"
            parts.append(_text(_LEFT + 8, y + 15, line, weight="bold"))
            y += _ROW
        for group in section.groups:
            name = group.name.removeprefix(f"{section.block}.")
            label = f"{name} ({group.size})"
            sizes = choices.get(group.name, ())
            parts += _row(group, label, y, shares[group.number] / longest, sizes)
            parts.append(_worth(y, shares[group.number], longest, sizes))
            y += _ROW
        if section.block is not None:
            parts += _box(top, y)
        y += 8
    notes = _notes(graph, shares, y)
    parts += notes
    height = y + _ROW * (len(notes) + 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="Helvetica, Arial, sans-serif" '
        'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def graph_to_html(graph: Graph, choices: Choices | None = None, title: str = "") -> str:
    """A page with the picture, and every frozen dimension with its reason."""
    rows = [
        f"<tr><td>{escape(g.name)}</td><td>{g.kind}</td><td>{g.size}</td>"
        f"<td>{escape(g.frozen)}</td></tr>"
        for g in graph.groups.values()
        if g.frozen is not None
    ]
    rows += [
        f"<tr><td>{escape(path)}.depth</td><td>depth</td><td></td><td>{escape(reason)}</td></tr>"
        for path, reason in graph.refused.items()
    ]
    table = "<tr><th>dimension<th>kind<th>size<th>why it cannot change</tr>\n" + "\n".join(rows)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title or 'supernet')}</title>\n"
        "<style>body{font:14px Helvetica,Arial,sans-serif;margin:2em}svg{max-width:100%}"
        "td,th{text-align:left;padding:2px 12px 2px 0}summary{cursor:pointer}</style></head>\n"
        "<body>\n"
        f"{graph_to_svg(graph, choices, title)}\n"
        f"<details><summary>frozen dimensions ({len(rows)})</summary>\n<table>{table}</table>"
        "</details></body></html>"
    )


def _unique_tensors(graph: Graph) -> list[str]:
    """Parameters, those that are tied once: the names that groups have as members."""
    names = dict.fromkeys(name for g in graph.groups.values() for name, _ in g.members)
    return [name for name in names if name not in graph.trace.buffers]


def _count(graph: Graph, name: str) -> int:
    return math.prod(axis.size for axis in graph.tensors[name])


def _share(graph: Graph, group: DimGroup, total: int) -> float:
    names = {name for name, _ in group.members} - graph.trace.buffers
    return sum(_count(graph, name) for name in names) / max(1, total)


def _sections(graph: Graph) -> list[_Section]:
    """The elastic groups in the order of the module, block by block."""
    blocks = [unit.path for units in graph.units.values() for unit in units]
    places = {name: place for place, name in enumerate(graph.tensors)}
    firsts: dict[str, int] = {}
    for name, place in places.items():
        for path in blocks:
            if name.startswith(f"{path}."):
                firsts.setdefault(path, place)
    entries: list[tuple[int, str | None, DimGroup | None]] = [
        (firsts.get(path, 0), path, None) for path in blocks
    ]
    for group in graph.elastic():
        names = [name for name, _ in group.members]
        inside = [p for p in blocks if all(name.startswith(f"{p}.") for name in names)]
        place = firsts[inside[0]] if inside else min(places[name] for name in names)
        entries.append((place, inside[0] if inside else None, group))
    sections: list[_Section] = []
    for _, block, member in sorted(entries, key=lambda e: (e[0], e[1] or "", e[2] is not None)):
        if not sections or sections[-1].block != block:
            sections.append(_Section(block))
        if member is not None:
            sections[-1].groups.append(member)
    return sections


def _head(graph: Graph, title: str) -> tuple[list[str], int]:
    """The title and the legend; where the rows begin."""
    parts = [_text(20, 28, title or "supernet", size=18, weight="bold")]
    blocks = sum(len(units) for units in graph.units.values())
    line = f"{len(graph.elastic())} elastic dimensions · {blocks} blocks that can be left out"
    parts.append(_text(20, 48, line))
    x, y = 20, 72
    for kind in dict.fromkeys(group.kind for group in graph.elastic()):
        label = f"{kind}: {_MEANINGS.get(kind, kind)}"
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{_color(kind)}"/>')
        parts.append(_text(x + 17, y, label))
        x += 40 + 7 * len(label)
        if x > _WIDTH - 200:
            x, y = 20, y + _ROW
    y += _ROW
    parts.append(
        f'<rect x="20" y="{y - 10}" width="24" height="12" fill="#555"/>'
        f'<rect x="44" y="{y - 10}" width="24" height="12" fill="#555" fill-opacity="0.3"/>'
    )
    note = "share of the parameters that have the dimension; dark: what stays at its smallest"
    parts.append(_text(74, y, note))
    if blocks:
        x = 100 + 6 * len(note)
        parts.append(_arc(x, y - 12, y + 2))
        parts.append(_text(x + 14, y, "residual path: the block can be left out"))
    return parts, y + _ROW


def _row(group: DimGroup, label: str, y: int, length: float, choices: tuple[int, ...]) -> list[str]:
    """The name of a group and its bar, `length` of the longest one."""
    color, pixels = _color(group.kind), _BAR * min(1.0, length)
    smallest = choices[0] / group.size if choices else 1.0
    x = _LEFT + _LABEL + 10
    return [
        _text(x - 10, y + 15, label, anchor="end", most=46),
        f'<rect x="{x}" y="{y + 4}" width="{pixels:.1f}" height="13" fill="{color}" '
        'fill-opacity="0.3"/>',
        f'<rect x="{x}" y="{y + 4}" width="{pixels * smallest:.1f}" height="13" fill="{color}"/>',
    ]


def _worth(y: int, share: float, longest: float, choices: tuple[int, ...]) -> str:
    """What stands beside a bar: the share of the parameters, and the sizes."""
    sizes = _sizes(choices) if choices else "stays: not in the space"
    x = _LEFT + _LABEL + 18 + _BAR * min(1.0, share / longest)
    return _text(x, y + 15, f"{share:.1%} · {sizes}", color="#444")


def _sizes(choices: tuple[int, ...]) -> str:
    if len(choices) > 6:
        return f"{choices[0]} … {choices[-1]} ({len(choices)} sizes)"
    return ", ".join(map(str, choices))


def _box(top: int, bottom: int) -> list[str]:
    return [
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH - _LEFT - 20}" height="{bottom - top + 2}" '
        'rx="6" fill="none" stroke="#888" stroke-dasharray="5 3"/>',
        _arc(_LEFT - 4, top - 2, bottom + 4),
    ]


def _arc(x: float, top: float, bottom: float) -> str:
    """A path around a block, with an arrow at its end."""
    bow = min(24.0, 8 + (bottom - top) / 6)
    return (
        f'<path d="M {x} {top} C {x - bow} {top}, {x - bow} {bottom}, {x} {bottom}" '
        'fill="none" stroke="#d62728" stroke-width="1.5"/>'
        f'<path d="M {x} {bottom} l -6 -3 l 1 6 z" fill="#d62728"/>'
    )


def _notes(graph: Graph, shares: Mapping[int, float], y: int) -> list[str]:
    """The frozen dimensions that matter, the largest first."""
    frozen = [g for g in graph.groups.values() if g.frozen is not None]
    frozen = [g for g in frozen if not is_minor(g) and shares[g.number] > 0.05]
    alike: dict[tuple[str, str | None], list[DimGroup]] = {}
    for group in sorted(frozen, key=lambda group: -shares[group.number]):
        alike.setdefault((group.kind, group.frozen), []).append(group)
    if not alike:
        return []
    parts = [_text(20, y + 15, "frozen", weight="bold")]
    for groups in list(alike.values())[:_MOST_NOTES]:
        y += _ROW
        more = f" and {len(groups) - 1} alike" if len(groups) > 1 else ""
        share = sum(shares[group.number] for group in groups)
        line = f"{groups[0].name} ({groups[0].size}){more}, {share:.1%}: {groups[0].frozen}"
        parts.append(_text(20, y + 15, line, color="#777", most=150))
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: str = "normal",
    color: str = "black",
    most: int = 200,
) -> str:
    whole, short = text, text
    if len(text) > most:  # the end says more than the beginning
        short = f"…{text[-most + 1 :]}" if anchor == "end" else f"{text[: most - 1]}…"
    tip = f"<title>{escape(whole)}</title>" if short != whole else ""
    return (
        f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{color}">{escape(short)}{tip}</text>'
    )


def _color(kind: str) -> str:
    return _COLORS.get(kind, "#9c755f")

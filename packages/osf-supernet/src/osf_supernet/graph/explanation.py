"""The graph representation in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from osf_supernet.graph.graph import DimGroup, Graph


def explain(graph: Graph, choices: Mapping[str, tuple[int, ...]]) -> str:
    """One line per group and depth list: sizes and choices, or why it is frozen.

    Args:
        graph: the graph of a module.
        choices: the sizes that a space lets groups take.
    """
    lines = ["elastic"]
    elastic = [(group.name, group.kind, group.size) for group in graph.elastic()]
    elastic += [(f"{path}.depth", "depth", len(units)) for path, units in graph.units.items()]
    for name, kind, size in elastic:
        sizes = ", ".join(map(str, choices.get(name, ()))) or "not in the space"
        lines.append(f"  {name}  {kind} {size}  [{sizes}]")
    lines.append("frozen")
    lines += [
        f"  {group.name}  {group.kind} {group.size}  {group.frozen}"
        for group in graph.groups.values()
        if group.frozen is not None
    ]
    lines += [f"  {path}.depth  {reason}" for path, reason in graph.refused.items()]
    return "\n".join(lines)


_MINOR = (
    *("a convolution runs along it", "it is a dimension of the input", "accessed one by one"),
    *("it is a spatial dimension", "it meets a range of positions"),
)


def is_minor(group: DimGroup) -> bool:
    """Whether nobody would expect the group to change: kernel axes, axes of the input."""
    return group.frozen is not None and any(text in group.frozen for text in _MINOR)


def graph_to_dict(graph: Graph) -> dict[str, Any]:
    """The groups and depth units as plain data for JSON."""
    return {
        "groups": [
            {key: value for key, value in asdict(group).items() if key != "number"}
            for group in graph.groups.values()
        ],
        "depth": {path: [unit.path for unit in units] for path, units in graph.units.items()},
        "refused": dict(graph.refused),
    }


def graph_to_dot(graph: Graph) -> str:
    """The groups and the modules whose parameters contain them, as a DOT drawing."""
    lines = ["graph dimensions {", "  rankdir=LR;", "  node [fontname=Helvetica];"]
    modules: dict[str, None] = {}
    edges: dict[tuple[str, str], None] = {}
    for group in graph.groups.values():
        style = "dashed" if group.frozen else "solid"
        lines.append(
            f'  "{group.name}" [shape=ellipse, style={style}, '
            f'label="{group.name}\\n{group.kind} {group.size}"];'
        )
        for name, _ in group.members:
            module = name.rpartition(".")[0] or "(root)"
            modules[f"m:{module}"] = None
            edges[(group.name, f"m:{module}")] = None
    lines += [f'  "{m}" [shape=box, label="{m.removeprefix("m:")}"];' for m in modules]
    lines += [f'  "{group}" -- "{module}";' for group, module in edges]
    return "\n".join([*lines, "}"])

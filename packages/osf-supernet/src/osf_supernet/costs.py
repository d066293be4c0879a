"""Floating point operations of each node as products of axis sizes.

The convention is that of `torch.utils.flop_counter.FlopCounterMode`: two per multiplication in
matrix products, convolutions and attention, nothing for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from osf_supernet.expressions import Expression
from osf_supernet.propagation import arguments_of, contracted_letters, operator_name
from osf_supernet.tracing import Trace


@dataclass(frozen=True)
class Cost:
    """`factor` times the product of the axes' sizes, at one node.

    An einsum that sums over single entries multiplies elementwise instead, which is not counted:
    `summed` are the axes that must not all be 1.
    """

    node: str
    factor: int
    axes: tuple[Expression, ...]
    summed: tuple[Expression, ...] = ()


def costs_of(trace: Trace, values: Mapping[fx.Node, Any]) -> tuple[Cost, ...]:
    """The costs of a graph; depth and sizes are applied by whoever counts."""
    found: list[Cost] = []
    for node in trace.nodes:
        if node.op == "call_function":
            found += [Cost(node.name, 2, axes) for axes in _products(node, values)]
            if operator_name(node) == "einsum":
                found += _einsum(node, values)
    return tuple(found)


def _products(node: fx.Node, values: Mapping[fx.Node, Any]) -> list[tuple[Expression, ...]]:
    """For each matrix product in a node, the axes whose sizes multiply."""
    name = operator_name(node)
    operands = [values[a] if isinstance(a, fx.Node) else [] for a in node.args]
    if name == "linear":
        return [(*values[node], operands[0][-1])]
    if name in ("matmul", "mm", "bmm"):
        return [(*values[node], operands[0][-1])]
    if name in ("addmm", "baddbmm"):
        return [(*values[node], operands[1][-1])]
    if name.startswith("conv_transpose"):
        return [(*operands[0], *operands[1][1:])]
    if name.startswith("conv"):
        return [(*values[node], *operands[1][1:])]
    if name == "scaled_dot_product_attention":
        q, k, v = operands[:3]
        return [(*q[:-1], k[-2], q[-1]), (*q[:-1], k[-2], v[-1])]
    return []


def _einsum(node: fx.Node, values: Mapping[fx.Node, Any]) -> list[Cost]:
    """The batched matrix product that an einsum of two operands is; others are not counted."""
    equation, nodes = str(node.args[0]).replace(" ", ""), arguments_of(node)[1]
    if "." in equation or "->" not in equation:
        return []
    first = equation.split(",")[0]
    summed = tuple(values[nodes[0]][first.index(x)] for x in contracted_letters(equation))
    return [Cost(node.name, 2, (*values[node], *summed), summed)] if summed else []

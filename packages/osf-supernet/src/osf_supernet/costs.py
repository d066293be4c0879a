"""Floating point operations of each node as products of axis sizes.

The convention is that of `torch.utils.flop_counter.FlopCounterMode`: two per multiplication in
matrix products, convolutions and attention, nothing for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from osf_supernet.expressions import Expression, size_of
from osf_supernet.propagation import operator_name
from osf_supernet.tracing import Trace


@dataclass(frozen=True)
class Cost:
    """`factor` times the product of the axes' sizes, at one node."""

    node: str
    factor: int
    axes: tuple[Expression, ...]

    def count(self, sizes: Mapping[int, Any]) -> Any:
        """The operations with the given group sizes."""
        return math.prod((size_of(axis, sizes) for axis in self.axes), start=self.factor)


def costs_of(trace: Trace, values: Mapping[fx.Node, Any]) -> tuple[Cost, ...]:
    """The costs of a graph; depth and sizes are applied by whoever counts."""
    found: list[Cost] = []
    for node in trace.nodes:
        if node.op == "call_function":
            found += [Cost(node.name, 2, axes) for axes in _products(node, values)]
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
    if name.startswith("conv"):
        return [(*values[node], *operands[1][1:])]
    if name == "scaled_dot_product_attention":
        q, k, v = operands[:3]
        return [(*q[:-1], k[-2], q[-1]), (*q[:-1], k[-2], v[-1])]
    return []

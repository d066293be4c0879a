"""Floating point operations of each node as products of axis sizes.

The convention is that of `torch.utils.flop_counter.FlopCounterMode`: two per multiplication in
matrix products, convolutions and attention, nothing for the rest. That mode does not see what
fused kernels do: on a CPU it misses the attention of `scaled_dot_product_attention`, and without
gradients whole layers of `nn.MultiheadAttention`; both are counted here. It sees them with
`sdpa_kernel(SDPBackend.MATH)` and `torch.backends.mha.set_fastpath_enabled(False)`.

Operators that hide such products and have no formula here (recurrent cells, an einsum of three
operands) cost what that mode counts at the traced shapes, whatever the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from osf_supernet.graph.expressions import Expression
from osf_supernet.graph.propagation import arguments_of, contracted_letters, operator_name
from osf_supernet.trace.tracing import Trace


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
    """The costs of a graph at full size; `subnets.counts` applies depth and sizes."""
    found: list[Cost] = []
    mode = FakeTensorMode()
    for node in trace.nodes:
        if node.op == "call_function":
            costs = _einsum(node, values) if operator_name(node) == "einsum" else None
            products = _matrix_products(node, values) if costs is None else None
            if products is not None:
                costs = [Cost(node.name, 2, axes) for axes in products]
            found += _count_operator(node, mode) if costs is None else costs
    return tuple(found)


def _matrix_products(
    node: fx.Node, values: Mapping[fx.Node, Any]
) -> list[tuple[Expression, ...]] | None:
    """For each matrix product in a node, the axes whose sizes multiply; None without a formula."""
    name = operator_name(node)
    operands = [values[a] if isinstance(a, fx.Node) else [] for a in node.args]
    if name == "matmul" and 1 in (len(operands[0]), len(operands[1])):  # with a vector
        return [(*values[node], operands[0][-1])] if len(operands[1]) == 2 else []
    if name in ("linear", "matmul", "mm", "bmm"):
        return [(*values[node], operands[0][-1])]
    if name in ("addmm", "baddbmm"):
        return [(*values[node], operands[1][-1])]
    if "grouped_mm" in name:
        return [(*values[node], operands[0][-1])]
    if name.startswith("conv_transpose"):
        return [(*operands[0], *operands[1][1:])]
    if name.startswith("conv"):
        return [(*values[node], *operands[1][1:])]
    if name == "scaled_dot_product_attention":
        q, k, v = operands[:3]
        return [(*q[:-1], k[-2], q[-1]), (*q[:-1], k[-2], v[-1])]
    return None


def _einsum(node: fx.Node, values: Mapping[fx.Node, Any]) -> list[Cost] | None:
    """The batched matrix product that an einsum of two operands is; None for others."""
    equation, nodes = str(node.args[0]).replace(" ", ""), arguments_of(node)[1]
    if "." in equation or "->" not in equation or len(nodes) != 2:
        return None
    first = equation.split(",")[0]
    summed = tuple(values[nodes[0]][first.index(x)] for x in contracted_letters(equation))
    return [Cost(node.name, 2, (*values[node], *summed), summed)] if summed else []


def _count_operator(node: fx.Node, mode: FakeTensorMode) -> list[Cost]:
    """What `FlopCounterMode` counts at the traced shapes."""
    target: Any = node.target
    operands = [leaf for leaf in pytree.tree_leaves(node.args) if isinstance(leaf, fx.Node)]
    hidden = isinstance(target, torch._ops.OpOverload) and (
        target._can_decompose() or target.overloadpacket in flop_registry
    )
    if len(operands) < 2 or not hidden:
        return []

    def make_fake(value: Any) -> Any:
        value = value.meta.get("val") if isinstance(value, fx.Node) else value
        if not isinstance(value, Tensor):
            return value
        return torch.empty_strided(
            value.shape, value.stride(), dtype=value.dtype, device=value.device
        )

    with mode, FlopCounterMode(display=False) as counter, torch.no_grad():
        args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), make_fake)
        try:
            target(*args, **kwargs)
        except Exception:  # an operator that runs on real tensors only
            return []
    count = counter.get_total_flops()
    return [Cost(node.name, count, ())] if count else []

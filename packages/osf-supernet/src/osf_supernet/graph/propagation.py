"""Axes through a graph: each operator's rule says which axes of its tensors are the same.

A rule gets the `Propagation` and a node and returns the labels of the node's results: one
`Axis` per dimension. An operator without a rule freezes everything it touches, by name.
"""

from __future__ import annotations

import fnmatch
import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from osf_supernet.counting import storage_key
from osf_supernet.graph.axes import Axis, freeze, mark, product, split_product, unite
from osf_supernet.trace.tracing import Trace

Label = list[Axis]
Rule = Callable[["Propagation", fx.Node], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators by name, without overload or trailing underscore."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


class Propagation:
    """The axes of every value in a trace, and what the rules recorded about its nodes.

    Attributes:
        labels: node → its axes (for several results a list of such lists).
        names: parameter or buffer name → its axes; tied tensors share them.
        contracted: node → pairs (argument position, dimension) that it sums over.
        normalized: node → (argument position, dimensions) it computes statistics over.
        as_class: whether sizes must be such as a module of the class can have.
        cuts: (module, sizes) → the axes that a view in the module cut a last axis into.
    """

    def __init__(
        self,
        trace: Trace,
        tensors: dict[str, Tensor],
        square: Sequence[str] = (),
        outputs: Sequence[str] = ("*",),
        *,
        as_class: bool = True,
    ) -> None:
        self.trace = trace
        self.fixed_outputs = tuple(outputs)
        self.as_class = as_class
        self.labels: dict[fx.Node, Any] = {}
        self.names: dict[str, Label] = {}
        self.contracted: dict[fx.Node, list[tuple[int, int]]] = {}
        self.normalized: dict[fx.Node, tuple[int, tuple[int, ...]]] = {}
        self.cuts: dict[tuple[Any, ...], Label] = {}
        self._tied: dict[Hashable, Label] = {}
        for name, tensor in tensors.items():
            self.names[name] = self._tied.setdefault(storage_key(tensor), fresh(tensor.shape))
        for name in square:
            unite(self.names[name][0], self.names[name][1])
        for node in trace.nodes:
            self.labels[node] = self._visit(node)

    def label(self, node: Any) -> Label:
        """The axes of a value; a number has none."""
        return [*self.labels[node]] if isinstance(node, fx.Node) else []

    def axis(self, node: Any, dim: int) -> Axis:
        """One axis of a value."""
        axis: Axis = self.label(node)[dim]
        return axis

    def _visit(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            return frozen_like(node, "it belongs to a constant of the graph")
        if node.op == "output":
            self._outputs()
            return []
        if node.target is operator.getitem:
            parent: Any = node.args[0]
            label = self.labels[parent][node.args[1]]
            return label if _fits(label, node.meta.get("val")) else frozen_like(node, _UNREAD)
        found = RULES.get(operator_name(node))
        if found is None and is_pointwise(node):
            found = RULES["pointwise"]
        if found is None:
            return self.freeze_node(node, f"{operator_name(node)} has no rule")
        try:
            label = found(self, node)
        except Exception as error:  # a form of the operator that its rule does not foresee
            return self.freeze_node(
                node, f"{operator_name(node)} could not be read: {error!r}"[:120]
            )
        if not _fits(label, node.meta.get("val")):
            return self.freeze_node(node, f"{operator_name(node)}: {_UNREAD}")
        return label

    def _placeholder(self, node: fx.Node) -> Any:
        name = self.trace.parameters.get(node.name)
        if name is not None:
            return self.names[name]
        if node.name in self.trace.constants:
            return frozen_like(node, "it meets a constant tensor of the forward")
        return frozen_like(node, f"it is a dimension of the input {node.name!r}")

    def _outputs(self) -> None:
        for path, leaf in self.trace.outputs:
            if not any(fnmatch.fnmatchcase(path, p) for p in self.fixed_outputs):
                continue
            for axis in self.label(leaf):
                freeze(axis, f"it is a dimension of the output {path or 'tensor'}")

    def freeze_node(self, node: fx.Node, reason: str) -> Any:
        """Freeze every axis that a node reads, and those of its results."""
        for argument in node.all_input_nodes:
            for axis in pytree.tree_leaves(self.labels[argument]):
                freeze(axis, reason)
        return frozen_like(node, reason)

    def contract(self, node: fx.Node, *pairs: tuple[int, int]) -> None:
        """Note that a node sums products over these (argument, dimension) pairs."""
        self.contracted[node] = list(pairs)

    def normalize(
        self, node: fx.Node, argument: int, dims: Sequence[int], name: str = "normalized"
    ) -> None:
        """Note that a node takes statistics over these dimensions of an argument."""
        self.normalized[node] = (argument, tuple(dims))
        for dim in dims:
            mark(self.axis(node.args[argument], dim), name)


_UNREAD = "what it returns could not be read"


def _fits(label: Any, value: Any) -> bool:
    """Whether a label has the sizes of the value it stands for."""
    if isinstance(value, Tensor):
        return (
            isinstance(label, list)
            and all(isinstance(axis, Axis) for axis in label)
            and [axis.size for axis in label] == [int(size) for size in value.shape]
        )
    if isinstance(value, list | tuple):
        return len(label) == len(value) and all(map(_fits, label, value))
    return True


def operator_name(node: fx.Node) -> str:
    """`linear` for `aten.linear.default`; in-place variants go by the plain name."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(node.target)
    name = str(schema.name).split("::")[-1]
    return name if name.startswith("__") else name.rstrip("_")


def arguments_of(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of a node, for rules that know what they are."""
    return node.args


def is_pointwise(node: fx.Node) -> bool:
    """Whether PyTorch itself tags the operator as elementwise."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def fresh(shape: Sequence[int]) -> Label:
    """New atoms, one per dimension."""
    return [Axis(int(size), None if size else "it is empty") for size in shape]


def frozen_like(node: fx.Node, reason: str) -> Any:
    """New frozen atoms for whatever a node returns."""
    return _frozen_value(node.meta.get("val"), reason)


def _frozen_value(value: Any, reason: str) -> Any:
    if isinstance(value, Tensor):
        return [Axis(int(size), reason) for size in value.shape]
    if isinstance(value, list | tuple):
        return [_frozen_value(item, reason) for item in value]
    return []


def shape_of(node: Any) -> tuple[int, ...]:
    """The traced shape of a value."""
    return tuple(int(size) for size in node.meta["val"].shape)


def contracted_letters(equation: str) -> list[str]:
    """The letters of an einsum of two operands that both have and the result has not."""
    left, right = equation.replace(" ", "").split("->")
    first, *others = left.split(",")
    if len(others) != 1:
        return []
    return [x for x in dict.fromkeys(first) if x in others[0] and x not in right]


def broadcast(labels: Sequence[Label]) -> Label:
    """Unite right-aligned axes; of size 1 and n the one of size n remains."""
    result: Label = [Axis(1) for _ in range(max(map(len, labels), default=0))]
    for label in labels:
        for position in range(1, len(label) + 1):
            axis = label[-position].root()
            if result[-position].size == 1:
                result[-position] = axis
            else:
                unite(result[-position], axis)
    return result


def reshape(label: Label, shape: Sequence[int]) -> Label:
    """The axes after a view: equal runs of sizes are regrouped, row-major."""
    old = [axis for axis in label if axis.size != 1]
    result = [Axis(1) for _ in shape]
    targets = [index for index, size in enumerate(shape) if size != 1]
    while old:
        taken, into = [old.pop(0)], [targets.pop(0)]
        have, want = taken[0].size, shape[into[0]]
        while have != want:
            if have < want:
                taken.append(old.pop(0))
                have *= taken[-1].size
            else:
                into.append(targets.pop(0))
                want *= shape[into[-1]]
        whole = product(taken)
        parts = [whole] if len(into) == 1 else split_product(whole, [shape[i] for i in into])
        for index, part in zip(into, parts, strict=True):
            result[index] = part
    return result

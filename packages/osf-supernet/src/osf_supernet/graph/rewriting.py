"""A traced graph with the sizes of a subnet: the integers in its operators follow what is kept.

Nothing is masked: the result computes on cut tensors. Sizes of the inputs that are no sizes of the
network (batch, length) are read from the inputs when it runs.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from osf_supernet.graph.expressions import (
    Atom,
    Compound,
    Expression,
    groups_in,
    indices_of,
    size_of,
)
from osf_supernet.graph.graph import Graph
from osf_supernet.graph.modes import run_batch_norm, run_dropout
from osf_supernet.graph.propagation import operator_name

_SHAPES = {  # operator → position of the shape among its arguments
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "view_copy", "expand", "broadcast_to"), 1),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), 1),
    **dict.fromkeys(("zeros", "ones", "full", "empty", "rand", "randn"), 0),
}
_CHECKS = ("_assert_tensor_metadata", "_assert_async", "_assert_scalar")
_Rewrite = Callable[["Rewriter", fx.Node, list[Any]], None]
_REWRITES: dict[str, _Rewrite] = {}


def _rewrites(*names: str) -> Callable[[_Rewrite], _Rewrite]:
    """Register what happens to the arguments of operators."""

    def register(function: _Rewrite) -> _Rewrite:
        _REWRITES.update(dict.fromkeys(names, function))
        return function

    return register


class Rewriter:
    """Copies a graph operator by operator.

    Placeholders of the copy are the module that it runs for, the device, the tensors of `tensors`,
    `constants`, and the inputs.

    Attributes:
        tensors: names of the parameters and buffers that the copy reads.
        constants: tensors that the forward made from literals.
        inputs: names of the inputs' placeholders in the traced graph, all of them.
    """

    def __init__(
        self, graph: Graph, kept: Mapping[int, Sequence[int]], dropped: Mapping[str, str]
    ) -> None:
        self.graph, self.kept, self.dropped = graph, kept, dropped
        self.sizes = {number: len(indices) for number, indices in kept.items()}
        self.values: dict[fx.Node, Any] = graph.values
        self.tensors: list[str] = []
        self.constants: list[Tensor] = []
        self.inputs = list(graph.trace.inputs)
        self.new = fx.Graph()
        self._env: dict[fx.Node, Any] = {}
        self._by_name = {node.name: node for node in graph.trace.nodes}
        self._sizes_read: dict[tuple[fx.Node, int], fx.Node] = {}
        self._sources: dict[int, tuple[fx.Node, int]] = {}
        self._fixed = {n for axes in graph.tensors.values() for e in axes for n in groups_in(e)}

    def run(self) -> fx.GraphModule:
        """The copy.

        Raises:
            ValueError: the graph holds what cannot be copied.
        """
        order = self._live()
        self.owner = self.new.placeholder("owner")
        self.device = self.new.placeholder("device")
        self._place_tensors(order)
        for node in order:
            if node.op == "call_function" and node.name not in self.dropped:
                self._env[node] = self._copy(node)
            elif node.name in self.dropped:
                self._env[node] = self._env[self._by_name[self.dropped[node.name]]]
        self.new.output([self._map(leaf) for leaf in self.graph.trace.results()])
        return fx.GraphModule(torch.nn.Module(), self.new)

    def _live(self) -> list[fx.Node]:
        """What the outputs need, in order, and what works in place outside of left-out blocks."""
        gone = self._left_out()
        needed: set[fx.Node] = set()
        waiting = [leaf for _, leaf in self.graph.trace.outputs if leaf is not None]
        waiting += [
            node
            for node in self.graph.trace.nodes
            if node.op == "call_function" and _is_in_place(node) and node.name not in gone
        ]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                source = self.dropped.get(node.name)
                waiting += [self._by_name[source]] if source else node.all_input_nodes
        return [node for node in self.graph.trace.nodes if node in needed]

    def _left_out(self) -> frozenset[str]:
        """Names of the nodes of the left-out blocks."""
        return frozenset(
            name
            for units in self.graph.units.values()
            for unit in units
            if self.dropped.get(unit.result) == unit.source
            for name in unit.region
        )

    def _place_tensors(self, order: list[fx.Node]) -> None:
        """Placeholders: of the live tensors and constants, and of all inputs."""
        trace = self.graph.trace
        for node in order:
            name = trace.parameters.get(node.name)
            if node.op == "placeholder" and name is not None:
                self._env[node] = self.new.placeholder(f"tensor_{len(self.tensors)}")
                self.tensors.append(name)
        for node in order:
            if node.op == "get_attr":
                value: Any = trace.graph_module
                for part in str(node.target).split("."):
                    value = getattr(value, part)
            else:
                value = trace.constants.get(node.name) if node.op == "placeholder" else None
            if isinstance(value, Tensor):
                self._env[node] = self.new.placeholder(f"constant_{len(self.constants)}")
                self.constants.append(value)
            elif node.op == "get_attr":
                raise ValueError(f"the graph has another graph inside, {node.target}")
        for number, name in enumerate(self.inputs):
            node = self._by_name[name]
            self._env[node] = self.new.placeholder(f"input_{number}")
            for dim, axis in enumerate(self.values[node] or []):
                if isinstance(axis, Atom):
                    self._sources.setdefault(axis.group, (node, dim))

    def _copy(self, node: fx.Node) -> Any:
        name = operator_name(node)
        if name in _CHECKS or "_set_grad_enabled" in name:
            return None
        args, kwargs = list(self._map(node.args)), dict(self._map(node.kwargs))
        schema = getattr(node.target, "_schema", None)
        for position, given in enumerate(schema.arguments if schema else ()):
            if given.name in kwargs and position == len(args) and not given.kwarg_only:
                args.append(kwargs.pop(given.name))
        made = self._replace(node, name, args)
        if made is not None:
            return made
        if name in _SHAPES:
            args[_SHAPES[name]] = self._shape(node, args[_SHAPES[name]])
        elif name in _REWRITES:
            _REWRITES[name](self, node, args)
        if name == "scaled_dot_product_attention" and kwargs.get("scale") is None:
            kwargs["scale"] = float(self.axis(node.args[0], -1).size) ** -0.5  # of full heads
        target: Any = node.target
        if name in ("view", "_unsafe_view"):
            target = torch.ops.aten.reshape.default
        return self.new.call_function(target, tuple(args), kwargs)

    def _replace(self, node: fx.Node, name: str, args: list[Any]) -> fx.Node | None:
        """Operators that follow the mode of the module at run time, or change their name."""
        if name in ("dropout", "feature_dropout", "alpha_dropout"):
            return self.new.call_function(run_dropout, (self.owner, name, args[0], args[1]))
        if name == "batch_norm" and len(node.args) > 3 and isinstance(node.args[3], fx.Node):
            statistics = self.graph.trace.parameters.get(node.args[3].name, "")
            path = statistics.rpartition(".")[0]
            if statistics:
                found = (self.owner, path, *args[:5], args[7])
                return self.new.call_function(run_batch_norm, found)
        if name in ("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_chunk"):
            dim = args[2] if len(args) > 2 else 0
            sizes = [self._size(label[dim]) for label in self.values[node]]
            target = torch.ops.aten.split_with_sizes.default
            return self.new.call_function(target, (args[0], sizes, dim))
        return None

    def _map(self, value: Any) -> Any:
        """Arguments in terms of the copy; whatever the device was, it is that of the module."""

        def change(item: Any) -> Any:
            if isinstance(item, fx.Node):
                return self._env[item]
            return self.device if isinstance(item, torch.device) else item

        return fx.node.map_aggregate(value, change)

    def _shape(self, node: fx.Node, given: Sequence[Any]) -> list[Any]:
        """A shape among the arguments; one dimension that nothing tells is left to the operator."""
        axes = self.values[node]
        shape = [
            -1 if isinstance(size, int) and size == -1 else self._size(axis)
            for size, axis in zip(given, axes, strict=True)
        ]
        unknown = [d for d, axis in enumerate(axes) if not self._is_known(axis)]
        if len(unknown) == 1 and -1 not in shape and operator_name(node) in ("view", "reshape"):
            shape[unknown[0]] = -1
        return shape

    def _is_known(self, axis: Expression) -> bool:
        """Whether every factor is of the network, or can be read from an input."""
        return all(n in self._fixed or n in self._sources for n in groups_in(axis))

    def _size(self, axis: Expression) -> Any:
        """The size of an axis: a number, or a node that computes it from the inputs' sizes."""
        if isinstance(axis, Atom):
            if axis.group in self.sizes or axis.group not in self._sources:
                return size_of(axis, self.sizes)
            return self._read_size(*self._sources[axis.group])
        sizes = [self._size(part) for part in axis.parts]
        combine = operator.mul if axis.joined == "product" else operator.add
        total = sizes[0]
        for size in sizes[1:]:
            whole = isinstance(total, int) and isinstance(size, int)
            total = (
                combine(total, size) if whole else self.new.call_function(combine, (total, size))
            )
        return total

    def _read_size(self, source: fx.Node, dim: int) -> fx.Node:
        key = (source, dim)
        if key not in self._sizes_read:
            target = torch.ops.aten.sym_size.int
            self._sizes_read[key] = self.new.call_function(target, (self._env[source], dim))
        return self._sizes_read[key]

    def changes(self, axis: Expression) -> bool:
        """Whether an axis has another size here, or may have."""
        return any(n in self.sizes or n in self._sources for n in groups_in(axis))

    def ratio(self, whole: Expression, part: Expression) -> Any:
        """The size of one axis over that of another."""
        over, under = self._size(whole), self._size(part)
        if isinstance(over, int) and isinstance(under, int):
            return over // under
        return self.new.call_function(operator.floordiv, (over, under))

    def axis(self, node: Any, dim: int) -> Expression:
        """One axis of a value of the traced graph."""
        found: Expression = self.values[node][dim]
        return found

    def size(self, axis: Expression) -> Any:
        """See `_size`."""
        return self._size(axis)

    def add(self, one: Any, two: Any) -> Any:
        """The sum of two sizes."""
        if isinstance(one, int) and isinstance(two, int):
            return one + two
        return self.new.call_function(operator.add, (one, two))

    def count_before(self, axis: Expression, position: int) -> int:
        """How many kept indices of an axis come before a position."""
        return bisect_left(list(indices_of(axis, self.kept)), position)


def _input(node: fx.Node) -> fx.Node:
    """The node whose value an operator takes first."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def _is_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


@_rewrites("unflatten")
def _unflatten(r: Rewriter, node: fx.Node, args: list[Any]) -> None:
    first = args[1] % len(r.values[_input(node)])
    args[2] = [r.size(r.axis(node, first + place)) for place in range(len(args[2]))]


@_rewrites("slice")
def _slice(r: Rewriter, node: fx.Node, args: list[Any]) -> None:
    args += [0, None, None, 1][len(args) - 1 :]
    dim = args[1]
    before, after = r.axis(node.args[0], dim), r.axis(node, dim)
    start, end, step = slice(args[2], args[3], args[4]).indices(before.size)
    if (start, end, step) == (0, before.size, 1):
        args[2:4] = [None, None]
    elif step == 1 and any(n in r.sizes for n in groups_in(before)):
        args[2], args[3] = r.count_before(before, start), r.count_before(before, end)
    elif step == 1 and r.changes(after) and not (args[2] or 0) < 0:
        args[3] = r.add(args[2] or 0, r.size(after))


@_rewrites("narrow")
def _narrow(r: Rewriter, node: fx.Node, args: list[Any]) -> None:
    axis = r.axis(node.args[0], args[1])
    args[2] = r.count_before(axis, args[2] % (axis.size + 1))
    args[3] = r.size(r.axis(node, args[1]))


@_rewrites("layer_norm", "rms_norm")
def _layer_norm(r: Rewriter, node: fx.Node, args: list[Any]) -> None:
    count = len(args[1])
    args[1] = [r.size(axis) for axis in r.values[_input(node)][-count:]]


@_rewrites("group_norm")
def _group_norm(r: Rewriter, node: fx.Node, args: list[Any]) -> None:
    args[1] = _kept_factor(r, r.axis(node.args[0], 1), args[1])


@_rewrites("conv1d", "conv2d", "conv3d")
def _convolution(r: Rewriter, node: fx.Node, args: list[Any]) -> None:
    if len(args) > 6 and args[6] != 1:
        args[6] = r.ratio(r.axis(node.args[0], 1), r.axis(node.args[1], 1))


def _kept_factor(r: Rewriter, axis: Expression, count: int) -> int:
    """What became of the first factor of an axis."""
    parts = (axis,) if not isinstance(axis, Compound) or axis.joined != "product" else axis.parts
    whole, kept = 1, 1
    for part in parts:
        if whole == count:
            return kept
        whole, kept = whole * part.size, kept * int(r.size(part))
    return kept if whole == count else count


@_rewrites("repeat", "tile")
def _repeat(r: Rewriter, node: fx.Node, args: list[Any]) -> None:
    before, after = r.values[_input(node)], r.values[node]
    missing = len(after) - len(before)
    for place, axis in enumerate(after):
        index = len(args[1]) - len(after) + place
        if index < 0 or not r.changes(axis):
            continue
        inner = before[place - missing] if place >= missing else Atom(-1, 1)
        args[1] = [*args[1][:index], r.ratio(axis, inner), *args[1][index + 1 :]]


@_rewrites("repeat_interleave")
def _repeat_interleave(r: Rewriter, node: fx.Node, args: list[Any]) -> None:
    if isinstance(args[1], int) and len(args) > 2 and args[2] is not None:
        args[1] = r.ratio(r.axis(node, args[2]), r.axis(node.args[0], args[2]))


@_rewrites("arange")
def _arange(r: Rewriter, node: fx.Node, args: list[Any]) -> None:
    axis = r.axis(node, 0)
    if not r.changes(axis) or not all(isinstance(a, int) for a in args):
        return
    if len(args) == 1:
        args[0] = r.size(axis)
    elif len(args) == 2 or args[2] == 1:
        args[1] = r.add(args[0], r.size(axis))

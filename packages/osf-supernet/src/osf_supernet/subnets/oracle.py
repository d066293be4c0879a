"""The reference that every subnet is checked against: the full graph with masks.

The oracle never slices a module and knows nothing of integer attributes. It interprets the
traced graph at full size with the parameters' left-out entries set to zero, leaves them out of
every sum over an axis, and computes norms over the kept entries only (zeros alone would change
a norm's statistics). A left-out block returns its residual input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from osf_supernet.graph.expressions import Atom, Compound, Expression, groups_in, indices_of
from osf_supernet.graph.graph import Graph, named_tensors
from osf_supernet.graph.propagation import arguments_of, operator_name
from osf_supernet.trace.tracing import Inputs, full_precision

Kept = Mapping[int, Sequence[int]]
_FILLED = {"full", "new_full", "scalar_tensor", "full_like"}
_COPIES = {"clone", "detach", "alias", "_to_copy", "to", "lift_fresh_copy"}


def masked_outputs(
    module: nn.Module,
    graph: Graph,
    kept: Kept,
    dropped: Mapping[str, str],
    example_inputs: Inputs | Tensor | None = None,
) -> list[Any]:
    """The outputs of a subnet, computed at full size with masks.

    Args:
        module: the full module whose weights are used.
        graph: its graph, traced at the shapes of the inputs.
        kept: group number → kept indices, for groups that are not whole.
        dropped: result node → source node of every block that is left out.
        example_inputs: other values of the same shapes; the traced ones by default.

    Returns:
        The flat outputs, cut to the kept indices, None where the model returned none or a number
        that follows from the shapes in the graph alone.
    """
    trace = graph.trace
    values = trace.inputs if example_inputs is None else trace.values_of(example_inputs)
    tensors = named_tensors(module)
    masked = {
        name: mask_tensor(tensors[name].detach(), graph.tensors[name], kept)
        for name in trace.parameters.values()
    }
    interpreter = _MaskedInterpreter(graph, kept, dropped)
    with full_precision(module), torch.no_grad():
        interpreter.run(*trace.arguments(masked, values))
    wanted = [None if leaf is None or is_size(leaf) else leaf for _, leaf in trace.outputs]
    return [None if leaf is None else interpreter.outputs.get(leaf.name) for leaf in wanted]


def is_size(node: fx.Node) -> bool:
    """Whether a node is a single number that no weight and no input decides.

    Such as how many segments of tokens are computed: the traced graph has the most there can be,
    a call as many as the data ask for.
    """
    while operator_name(node) in _COPIES:
        node = node.all_input_nodes[0]
    value = node.meta.get("val")
    is_number = isinstance(value, Tensor) and value.dim() == 0
    return is_number and operator_name(node) in _FILLED


def mask_tensor(tensor: Tensor, axes: Sequence[Expression], kept: Kept) -> Tensor:
    """A copy with zeros outside the kept indices of each axis."""
    for dim, expression in enumerate(axes):
        tensor = _mask_dim(tensor, dim, expression, kept)
    return tensor.clone()


def _mask_dim(tensor: Tensor, dim: int, expression: Expression, kept: Kept) -> Tensor:
    if not any(group in kept for group in groups_in(expression)):
        return tensor
    index = _index(expression, kept, tensor.device)
    shape = [1] * tensor.dim()
    shape[dim] = tensor.shape[dim]
    mask = torch.zeros(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
    mask[index] = True
    return torch.where(mask.view(shape), tensor, torch.zeros_like(tensor))


def _index(expression: Expression, kept: Kept, device: torch.device) -> Tensor:
    return torch.tensor(list(indices_of(expression, kept)), dtype=torch.long, device=device)


class _MaskedInterpreter(fx.Interpreter):
    """Runs a graph node by node; sums and statistics leave out what is not kept."""

    def __init__(self, graph: Graph, kept: Kept, dropped: Mapping[str, str]) -> None:
        super().__init__(graph.trace.graph_module)
        self.representation = graph
        self.kept = kept
        self.dropped = dropped
        self.outputs: dict[str, Tensor] = {}
        self._kept_sources = set(dropped.values())
        self._sources: dict[str, Tensor] = {}
        self._wanted = {leaf for _, leaf in graph.trace.outputs if leaf is not None}

    def run_node(self, node: fx.Node) -> Any:
        """The value of one node."""
        if node.name in self.dropped:
            value = self._sources[self.dropped[node.name]].clone()
        elif node in self.representation.propagation.normalized:
            value = self._statistics(node)
        elif node in self.representation.propagation.contracted:
            value = self._contraction(node)
        else:
            value = super().run_node(node)
        if node in self._wanted and isinstance(value, Tensor):
            self.outputs[node.name] = self._cut(value, node, range(value.dim()))
        if node.name in self._kept_sources:
            self._sources[node.name] = value.clone()  # the block may work in place
        return value

    def _call(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        return self.call_function(node.target, tuple(args), kwargs)

    def _contraction(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        listed = operator_name(node) == "einsum"  # its operands are a list behind the equation
        nodes = arguments_of(node)[1] if listed else arguments_of(node)
        changed = list(args[1] if listed else args)
        for position, dim in self.representation.propagation.contracted[node]:
            label = self.representation.values[nodes[position]]
            dim %= len(label)
            changed[position] = _mask_dim(changed[position], dim, label[dim], self.kept)
        return self._call(node, [args[0], changed] if listed else changed, kwargs)

    def _statistics(self, node: fx.Node) -> Any:
        position, dims = self.representation.propagation.normalized[node]
        label = self.representation.values[arguments_of(node)[position]]
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if not any(group in self.kept for d in dims for group in groups_in(label[d])):
            return self._call(node, list(args), kwargs)
        x = args[position]
        changed = list(args)
        changed[position] = self._cut(x, node.args[position], dims)
        if "softmax" in operator_name(node):
            return self._spread(self._call(node, changed, kwargs), x, label, dims)
        if operator_name(node) not in ("layer_norm", "rms_norm"):
            return self._call(node, changed, kwargs)
        changed[1] = [changed[0].shape[d] for d in dims]
        for other in range(2, min(len(args), 4)):
            if isinstance(args[other], Tensor):
                own = range(args[other].dim())
                changed[other] = self._cut(args[other], node.args[other], own)
        return self._spread(self._call(node, changed, kwargs), x, label, dims)

    def _cut(self, value: Tensor, node: Any, dims: Sequence[int]) -> Tensor:
        """The kept entries along some dimensions."""
        label = self.representation.values[node]
        for dim in dims:
            if any(group in self.kept for group in groups_in(label[dim])):
                value = value.index_select(dim, _index(label[dim], self.kept, value.device))
        return value

    def _spread(self, value: Tensor, like: Tensor, label: Any, dims: Sequence[int]) -> Tensor:
        """Kept entries back at their places, zeros elsewhere."""
        for dim in dims:
            index = _index(label[dim], self.kept, value.device)
            shape = list(value.shape)
            shape[dim] = like.shape[dim]
            value = value.new_zeros(shape).index_copy(dim % value.dim(), index, value)
        return value


def correspondence(graph: Graph, other: Graph) -> dict[int, int]:
    """Group numbers of one graph → those of another trace of the same module.

    Raises:
        ValueError: the two traces see different structure in some parameter.
    """
    pairs: dict[int, int] = {}

    def walk(name: str, one: Expression, two: Expression) -> None:
        if isinstance(one, Atom) and isinstance(two, Atom) and one.size == two.size:
            if pairs.setdefault(one.group, two.group) != two.group:
                raise ValueError(f"two traces disagree about what {name} is tied to")
        elif (
            isinstance(one, Compound)
            and isinstance(two, Compound)
            and (one.joined, len(one.parts)) == (two.joined, len(two.parts))
        ):
            for left, right in zip(one.parts, two.parts, strict=True):
                walk(name, left, right)
        else:
            raise ValueError(f"two traces see different structure in {name}")

    for name, axes in graph.tensors.items():
        for left, right in zip(axes, other.tensors[name], strict=True):
            if any(graph.groups[n].frozen is None for n in groups_in(left) if n in graph.groups):
                walk(name, left, right)
    return pairs

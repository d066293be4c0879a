"""How much each index of a group matters, and the permutation that sorts a group by it.

A group's score is the sum over every slice it couples. Magnitude needs no data; Taylor
(|weight × gradient|) and Fisher (squared gradient) need a loss; Wanda (|weight| × norm of the
input feature, Sun et al. 2023) and activation (norm of the feature) need inputs only, of the
shapes the graph was traced at.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from osf_supernet.counting import storage_key
from osf_supernet.graph.expressions import Atom, Expression, groups_in, indices_of
from osf_supernet.graph.graph import Graph, named_tensors
from osf_supernet.graph.propagation import arguments_of
from osf_supernet.subnets.batch_losses import Loss, batch_loss, inputs_of
from osf_supernet.trace.tracing import evaluation_mode, without_fused_attention

Scores = dict[int, Tensor]
METHODS = ("activation", "fisher", "magnitude", "random", "taylor", "wanda")


def importance(
    module: nn.Module,
    graph: Graph,
    method: str,
    batches: Sequence[Any] = (),
    loss: Loss | None = None,
) -> Scores:
    """Group number → a score per index, for every elastic group.

    Args:
        module: the module whose weights are scored.
        graph: its graph.
        method: one of `METHODS`.
        batches: inputs in the form of the traced example, or pairs (inputs, targets) where
            the loss takes targets.
        loss: `loss(outputs, targets)` or `loss(outputs)`, for taylor and fisher.

    Raises:
        ValueError: no such method, no loss for one that needs it, or batches of another form
            or, where the graph holds the traced one, of another shape.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method in ("taylor", "fisher") and loss is None:
        raise ValueError(
            f"{method} needs a loss: loss(outputs, targets) with batches of pairs, or loss(outputs)"
        )
    if method == "random":
        generator = torch.Generator().manual_seed(0)
        return {g.number: torch.rand(g.size, generator=generator) for g in graph.elastic()}
    scores = {g.number: torch.zeros(g.size, dtype=torch.float64) for g in graph.elastic()}
    if method in ("wanda", "activation"):
        inputs = [inputs_of(batch, loss) for batch in batches]
        _score_features(module, graph, method, inputs, scores)
        return scores
    for name, value in _parameter_scores(module, method, batches, loss).items():
        _add(scores, graph.tensors[name], value)
    return scores


def _parameter_scores(
    module: nn.Module,
    method: str,
    batches: Sequence[Any],
    loss: Loss | None,
) -> dict[str, Tensor]:
    """Parameter name → a score of its shape; of tied ones the first."""
    first: dict[Hashable, str] = {}
    names = {n: first.setdefault(storage_key(p), n) for n, p in module.named_parameters()}
    tensors = {n: p for n, p in module.named_parameters() if n in first.values()}
    if method == "magnitude" or loss is None:
        return {name: tensor.detach().double().square() for name, tensor in tensors.items()}
    total = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in tensors.items()}
    wanted = {name: p for name, p in module.named_parameters() if p.requires_grad}
    with evaluation_mode(module), without_fused_attention(), torch.enable_grad():
        for batch in batches:
            value = batch_loss(module, batch, loss)
            grads = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
            summed: dict[str, Tensor] = {}
            for name, grad in zip(wanted, grads, strict=True):
                if grad is not None:
                    one = grad.detach().double()
                    summed[names[name]] = summed.get(names[name], torch.zeros_like(one)) + one
            for name, grad in summed.items():
                weight = grad if method == "fisher" else tensors[name].detach()
                total[name] += grad * weight
    return {name: value.abs() for name, value in total.items()}


def _add(scores: Scores, axes: Sequence[Expression], value: Tensor) -> None:
    """Add a tensor's score, summed over its other axes, to the groups in each axis."""
    for dim, axis in enumerate(axes):
        others = [d for d in range(value.dim()) if d != dim]
        along = value.sum(others) if others else value
        for number in set(groups_in(axis)) & set(scores):
            add_along(scores[number], axis, number, along.cpu())


def add_along(score: Tensor, axis: Expression, number: int, along: Tensor) -> None:
    """Add a score per axis position to the group's index at that position."""
    for index, position in positions_of(axis, number):
        score.index_add_(0, index, along[position].to(score.dtype))


def positions_of(axis: Expression, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(group index, axis position) pairs, one batch for each place the group appears in."""
    outside = set(indices_of(axis, {number: []}))  # what does not belong to the group at all
    for index in range(_group_size(axis, number)):
        inside = [i for i in indices_of(axis, {number: [index]}) if i not in outside]
        places = torch.tensor(inside, dtype=torch.long)
        yield torch.full_like(places, index), places


def _group_size(axis: Expression, number: int) -> int:
    if isinstance(axis, Atom):
        return axis.size if axis.group == number else 0
    return max(_group_size(part, number) for part in axis.parts)


def _score_features(
    module: nn.Module, graph: Graph, method: str, batches: Sequence[Any], scores: Scores
) -> None:
    """Scores from the features that weights multiply, on the traced graph."""
    trace = graph.trace
    tensors = {name: tensor.detach() for name, tensor in named_tensors(module).items()}
    for batch in batches:
        values = trace.values_of(batch)
        try:
            with torch.no_grad():
                interpreter = _FeatureInterpreter(graph, method, scores)
                interpreter.run(*trace.arguments(tensors, values))
        except RuntimeError as failure:
            traced, got = _shapes(trace.inputs), _shapes(values)
            if traced == got:
                raise
            raise ValueError(
                f"batches must have the traced shapes {traced}, got {got}: the graph holds them"
            ) from failure


def _shapes(values: Mapping[str, Any]) -> str:
    return ", ".join(str(tuple(x.shape)) for x in values.values() if isinstance(x, Tensor))


class _FeatureInterpreter(fx.Interpreter):
    """Runs the graph and scores the inputs of every product with a parameter."""

    def __init__(self, graph: Graph, method: str, scores: Scores) -> None:
        super().__init__(graph.trace.graph_module)
        self.representation, self.method, self.scores = graph, method, scores

    def run_node(self, node: fx.Node) -> Any:
        """The value of one node."""
        pairs = self.representation.propagation.contracted.get(node, [])
        if len(pairs) == 2 and len(node.args) > 1:
            (first, dim), (second, weight_dim) = pairs
            weight = node.args[second]
            if isinstance(weight, fx.Node) and weight.op == "placeholder":
                args, _ = self.fetch_args_kwargs_from_env(node)
                self._score(node, args[first], dim, args[second], weight_dim)
        return super().run_node(node)

    def _score(self, node: fx.Node, x: Tensor, dim: int, weight: Tensor, weight_dim: int) -> None:
        label = self.representation.values[arguments_of(node)[0]]
        dim %= x.dim()
        norm = x.double().square().sum([d for d in range(x.dim()) if d != dim]).sqrt()
        if self.method == "wanda":
            others = [d for d in range(weight.dim()) if d != weight_dim % weight.dim()]
            norm = norm * weight.double().abs().sum(others)
        for number in set(groups_in(label[dim])) & set(self.scores):
            add_along(self.scores[number], label[dim], number, norm.cpu())


def permute(module: nn.Module, graph: Graph, order: Mapping[int, Tensor]) -> None:
    """Apply one permutation per group to every parameter and buffer that contains it, in place."""
    wanted = {number: index.tolist() for number, index in order.items()}
    seen: set[Hashable] = set()
    with torch.no_grad():
        for name, tensor in named_tensors(module).items():
            if storage_key(tensor) in seen:
                continue
            seen.add(storage_key(tensor))
            for dim, axis in enumerate(graph.tensors[name]):
                if any(number in wanted for number in groups_in(axis)):
                    index = torch.tensor(list(indices_of(axis, wanted)), device=tensor.device)
                    tensor.copy_(tensor.index_select(dim, index))

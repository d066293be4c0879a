"""What subnets are checked against: the model's graph, traced at several input shapes.

`ReferenceCache` keeps them for a supernet and follows its model to another device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.graph.graph import Graph, build_graph
from osf_supernet.subnets.comparison import (
    difference,
    find_nonfinite,
    run,
    run_active,
    tolerance_of,
)
from osf_supernet.subnets.graph_module import Free, build_program
from osf_supernet.subnets.integer_attributes import integers_of
from osf_supernet.subnets.oracle import correspondence, masked_outputs
from osf_supernet.subnets.planning import Plan
from osf_supernet.subnets.surgery import Surgery
from osf_supernet.trace.shapes import larger_batch, one_sample, other_images, other_lengths
from osf_supernet.trace.tracing import TraceError, first_line, split_inputs


@dataclass(frozen=True)
class Reference:
    """A graph traced at some input shapes, with the inputs, to check subnets against."""

    graph: Graph
    inputs: Any
    numbers: dict[int, int]  # group numbers of the supernet's graph → of this one


def references(
    module: nn.Module, graph: Graph, inputs: Any, more_inputs: Sequence[Any]
) -> tuple[list[Reference], list[str]]:
    """References at the traced shapes, at a larger batch and at other lengths and image sizes.

    With `more_inputs` these stand in for other lengths and image sizes.

    Returns:
        The references, and notes on those that could not be made.
    """
    found = [Reference(graph, inputs, {number: number for number in graph.groups})]
    notes: list[str] = []
    if graph.trace.recorded:
        notes.append(f"recorded from a real call: torch.export said {graph.trace.recorded}")
    wanted: list[tuple[str, Iterable[Any]]] = [("more_inputs", [other]) for other in more_inputs]
    if not more_inputs:
        wanted.append(("another length", other_lengths(inputs)))
        wanted.append(("another image size", other_images(inputs)))
    if (wider := larger_batch(inputs)) is None:
        notes.append("no larger batch was checked: the inputs share no first dimension")
    else:
        wanted.insert(0, ("a larger batch", [wider]))
    for what, candidates in wanted:
        reasons = []
        for other in candidates:
            made = reference_at(module, graph, other)
            if isinstance(made, Reference):
                found.append(made)
                break
            reasons.append(made)
        else:
            if reasons:
                notes.append(f"{what} was not checked: {reasons[0]}")
    return found, notes


def reference_at(module: nn.Module, graph: Graph, inputs: Any) -> Reference | str:
    """The reference at other shapes or in another precision, or the reason why there is none."""
    try:
        expected = run(module, inputs)
    except Exception as refusal:  # a model's own code may raise anything
        return f"the module refuses it ({first_line(refusal)})"
    if (odd := find_nonfinite(expected)) is not None:
        return odd
    try:
        second = build_graph(module, inputs, square=graph.square, as_class=graph.as_class)
        reference = Reference(second, inputs, correspondence(graph, second))
    except (TraceError, ValueError) as failure:
        return first_line(failure)
    if not set(graph.units) <= set(second.units):
        return "other blocks can be left out at this shape"
    error = difference(expected, masked_outputs(module, second, {}, {}, inputs))
    if not error <= tolerance_of(second):
        return f"its graph does not compute what the module does ({error:.2g})"
    return reference


def what_is_kept(
    reference: Reference, plan: Plan
) -> tuple[dict[int, Sequence[int]], dict[str, str]]:
    """Kept indices by the reference's groups, and result → source of the left-out blocks."""
    kept = {reference.numbers[number]: indices for number, indices in plan.kept.items()}
    dropped = {
        unit.result: unit.source
        for path, positions in plan.dropped.items()
        for unit in reference.graph.units[path]
        if unit.position in positions
    }
    return kept, dropped


def with_program(
    module: nn.Module, reference: Reference, plan: Plan, free: Free | None = None
) -> Plan:
    """A plan that runs as the traced graph of a reference.

    Raises:
        ValueError: the graph holds what cannot be copied.
    """
    program = build_program(module, reference.graph, *what_is_kept(reference, plan), free)
    return replace(plan, surgery=replace(plan.surgery, forward=program), traced=True)


@dataclass(frozen=True)
class _Followed:
    """The references that the traced graph of one of them computes too."""

    base: Reference
    checks: list[Reference]
    free: Free
    notes: list[str]


def _follow(module: nn.Module, found: list[Reference]) -> _Followed:
    """At which input shapes one graph holds: that of several samples, where there is one."""
    single = one_sample(found[0].inputs) is None and larger_batch(found[0].inputs) is not None
    base = found[1] if single and len(found) > 1 else found[0]
    whole = with_program(module, base, Plan(surgery=Surgery(), kept={}, dropped={}))
    checks, notes, free = [], [], set()
    traced = pytree.tree_flatten_with_path(split_inputs(base.inputs))[0]
    for check in found:
        try:
            got = run_active(module, whole, check.inputs)
            error = difference(got, run(module, check.inputs))
        except Exception as failure:  # shapes that the graph has as numbers
            notes.append(f"the traced graph does not hold at other shapes: {first_line(failure)}")
            continue
        if not error <= tolerance_of(base.graph):
            notes.append(f"the traced graph does not hold at other shapes: it is {error:.2g} off")
            continue
        checks.append(check)
        others = pytree.tree_leaves(split_inputs(check.inputs))
        for (path, one), two in zip(traced, others, strict=True):
            if isinstance(one, Tensor):
                differing = [d for d in range(one.dim()) if one.shape[d] != two.shape[d]]
                free |= {(pytree.keystr(path[1:]), d) for d in differing}
    return _Followed(base, checks, frozenset(free), notes)


class ReferenceCache:
    """The references of one model, made when they are first needed.

    They are made anew when a call changed the model's integers (Swin keeps the window and shift
    of the smallest image it has seen).

    Attributes:
        inputs: The traced example, on the model's device.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, inputs: Any, more: Sequence[Any], notes: list[str]
    ) -> None:
        self._model, self._graph, self._notes = model, graph, notes
        self.inputs, self._more = inputs, list(more)
        self._placement = _placement(model)
        self._made: tuple[list[Reference], list[str]] | None = None
        self._followed: _Followed | None = None
        self._integers: list[Any] = []

    def get(self) -> tuple[list[Reference], list[str]]:
        """The references, and notes on what could not be checked."""
        self.follow_model()
        integers = [list(integers_of(child)) for child in self._model.modules()]
        if self._made is None or integers != self._integers:
            found, notes = references(self._model, self._graph, self.inputs, self._more)
            self._made = found, self._notes + notes
            self._integers, self._followed = integers, None
        return self._made

    def checks_of(self, plan: Plan) -> tuple[list[Reference], list[str]]:
        """The references that a subnet is checked against, and notes on what was not checked."""
        found, notes = self.get()
        if not plan.traced:
            return found, notes
        followed = self._follow()
        return followed.checks, [*notes, *followed.notes]

    def complete(self, plan: Plan) -> Plan:
        """A plan with the program that it runs as."""
        followed = self._follow()
        return with_program(self._model, followed.base, plan, followed.free)

    def _follow(self) -> _Followed:
        found, _ = self.get()
        if self._followed is None:
            self._followed = _follow(self._model, found)
        return self._followed

    def follow_model(self) -> None:
        """Bring the example and the graph to where the model was moved.

        Raises:
            RuntimeError: The model has another precision now, and the graph another one's
                operators.
        """
        devices, types = _placement(self._model)
        known, traced = self._placement
        if types != traced:
            raise RuntimeError(
                f"the supernet was made of a model in {', '.join(sorted(map(str, traced)))}, now "
                f"it is in {', '.join(sorted(map(str, types)))}: convert it back, or make another "
                "Supernet of it"
            )
        if devices != known and len(devices) == 1:
            (device,) = devices
            self._graph.trace.move(device)
            self.inputs, self._more = pytree.tree_map_only(
                Tensor, lambda x: x.to(device), (self.inputs, self._more)
            )
            self._placement, self._made = (devices, types), None


def _placement(model: nn.Module) -> tuple[set[torch.device], set[torch.dtype]]:
    """The devices and floating types of a model's parameters."""
    parameters = list(model.parameters())
    types = {p.dtype for p in parameters if p.is_floating_point()}
    return {p.device for p in parameters}, types

"""Checking a subnet against the oracle, and the certificate that says what was checked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.graph.graph import Graph, build_graph
from osf_supernet.subnets.oracle import correspondence, masked_outputs
from osf_supernet.subnets.planning import Plan
from osf_supernet.subnets.surgery import active, operate
from osf_supernet.trace.shapes import larger_batch, other_images, other_lengths
from osf_supernet.trace.tracing import (
    TraceError,
    evaluation_mode,
    full_precision,
    split_inputs,
    unchanged,
    without_fused_attention,
)


class VerificationError(RuntimeError):
    """A subnet does not compute what the oracle says."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was compared, and how closely it agreed.

    Attributes:
        config: the subnet.
        shapes: for each check the shapes of the input tensors.
        max_error: largest absolute difference over the largest reference value, per output.
        tolerance: what was allowed.
        precision: the coarsest floating type that the graph computes in.
        notes: what could not be checked, and why.
    """

    config: dict[str, int]
    shapes: tuple[tuple[tuple[int, ...], ...], ...]
    max_error: float
    tolerance: float
    precision: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The certificate as plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """A graph traced at some input shapes, with the inputs, to check subnets against."""

    graph: Graph
    inputs: Any
    numbers: dict[int, int]  # group numbers of the supernet's graph → of this one


def references(
    module: nn.Module, graph: Graph, inputs: Any, more_inputs: Sequence[Any]
) -> tuple[list[Reference], list[str]]:
    """The traced inputs, a larger batch, another length, another image size, and the caller's.

    Returns:
        The references, and notes on those that could not be made.
    """
    found = [Reference(graph, inputs, {number: number for number in graph.groups})]
    notes: list[str] = []
    if graph.trace.recorded:
        notes.append(f"recorded from a real call: torch.export said {graph.trace.recorded}")
    wanted: list[tuple[str, list[Any]]] = [
        ("a larger batch", [wider] if (wider := larger_batch(inputs)) is not None else []),
        *(("more_inputs", [other]) for other in more_inputs),
    ]
    if not more_inputs:
        wanted += [
            ("another length", list(other_lengths(inputs))),
            ("another image size", list(other_images(inputs))),
        ]
    if wider is None:
        notes.append("no larger batch was checked: the inputs share no first dimension")
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
    """The module traced at other shapes or in another precision, or why that is no reference."""
    try:
        expected = run(module, inputs)
    except Exception as refusal:  # a model's own code may raise anything
        return f"the module refuses it ({first_line(refusal)})"
    if (odd := _says_nothing(expected)) is not None:
        return odd
    try:
        second = build_graph(module, inputs, square=graph.square)
        reference = Reference(second, inputs, correspondence(graph, second))
    except (TraceError, ValueError) as failure:
        return first_line(failure)
    if not set(graph.units) <= set(second.units):
        return "other blocks can be left out at this shape"
    error = difference(masked_outputs(module, second, {}, {}, inputs), expected)
    if not error <= tolerance_of(second):
        return f"its graph does not compute what the module does ({error:.2g})"
    return reference


def first_line(error: Exception) -> str:
    """What an exception says, in short."""
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:200]


def precision_of(graph: Graph) -> torch.dtype:
    """The coarsest floating type that any node of the graph computes in."""
    found = [torch.float64]
    for node in graph.trace.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_floating_point():
            found.append(value.dtype)
    return min(found, key=lambda dtype: -torch.finfo(dtype).eps)


def tolerance_of(graph: Graph) -> float:
    """How far two ways to compute the same may differ, of an output's largest entry."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(precision_of(graph), 3e-2)


def run(module: nn.Module, inputs: Any) -> list[Any]:
    """The flat outputs of one call in evaluation mode."""
    args, kwargs = split_inputs(inputs)
    with (
        evaluation_mode(module),
        without_fused_attention(),
        full_precision(module),
        torch.no_grad(),
    ):
        return pytree.tree_flatten(module(*copy.copy(args), **copy.copy(kwargs)))[0]


def run_active(module: nn.Module, plan: Plan, inputs: Any) -> list[Any]:
    """The flat outputs of the module while it runs as a subnet."""
    with active(module, plan.surgery):
        return run(module, inputs)


def training_failure(module: nn.Module, inputs: Any) -> str | None:
    """Why a call in training mode fails, or None; buffers and the random state stay."""
    args, kwargs = split_inputs(inputs)
    devices = {p.device.index for p in module.parameters() if p.is_cuda}
    with (
        unchanged(module),
        full_precision(module),
        torch.no_grad(),
        torch.random.fork_rng(devices),
    ):
        module.train()
        try:
            module(*copy.copy(args), **copy.copy(kwargs))
        except Exception as failure:  # a model's own code may raise anything
            return first_line(failure)
    return None


def oracle_outputs(module: nn.Module, reference: Reference, plan: Plan) -> list[Any]:
    """The flat outputs that the subnet must have.

    Raises:
        VerificationError: they are such that nothing can be compared with them.
    """
    kept = {reference.numbers[number]: kept for number, kept in plan.kept.items()}
    dropped = {
        unit.result: unit.source
        for path, positions in plan.dropped.items()
        for unit in reference.graph.units[path]
        if unit.position in positions
    }
    outputs = masked_outputs(module, reference.graph, kept, dropped, reference.inputs)
    if (odd := _says_nothing(outputs)) is not None:
        raise VerificationError(f"{odd}; give example inputs and weights on which it is finite")
    return outputs


def _says_nothing(outputs: list[Any]) -> str | None:
    """Why nothing can be compared with these outputs, or None."""
    for position, output in enumerate(outputs):
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            if output.isnan().any():
                return f"output {position} of the full computation has NaN"
            if not output.isfinite().any():
                return f"output {position} of the full computation has no finite entry"
    return None


def difference(got: list[Any], expected: list[Any]) -> float:
    """The largest difference between outputs, relative to the largest entry of the reference."""
    if len(got) != len(expected):
        return float("inf")
    worst = 0.0
    for one, two in zip(got, expected, strict=True):
        if not isinstance(two, Tensor):
            continue
        if not isinstance(one, Tensor) or one.shape != two.shape:
            return float("inf")
        worst = max(worst, _distance(one, two))
    return worst


def _distance(one: Tensor, two: Tensor) -> float:
    if one.numel() == 0:
        return 0.0
    if not two.is_floating_point():
        return 0.0 if torch.equal(one, two) else float("inf")
    for same in (torch.isnan, torch.isposinf, torch.isneginf):
        if not torch.equal(same(one), same(two)):
            return float("inf")
    finite = torch.isfinite(two)
    zero = torch.zeros_like(two)
    one, two = torch.where(finite, one, zero), torch.where(finite, two, zero)
    scale = float(two.abs().max())
    return float((one - two).abs().max()) / (scale or 1.0)


def verify(
    module: nn.Module,
    plan: Plan,
    config: dict[str, int],
    checks: Sequence[Reference],
    notes: Sequence[str] = (),
    extracted: nn.Module | None = None,
) -> Certificate:
    """Compare supernet, extraction and oracle on every reference.

    Raises:
        VerificationError: they differ by more than the tolerance.
    """
    extracted = operate(module, plan.surgery) if extracted is None else extracted
    precision = precision_of(checks[0].graph)
    tolerance = tolerance_of(checks[0].graph)
    worst, shapes = 0.0, []
    for check in checks:
        expected = oracle_outputs(module, check, plan)
        leaves = pytree.tree_flatten(split_inputs(check.inputs))[0]
        shapes.append(tuple(tuple(x.shape) for x in leaves if isinstance(x, Tensor)))
        for what in ("running in the supernet", "extracted"):
            try:
                got = (
                    run(extracted, check.inputs)
                    if what == "extracted"
                    else run_active(module, plan, check.inputs)
                )
            except Exception as failure:  # a model's own code may raise anything
                raise VerificationError(
                    f"the subnet {what} does not run: {failure}; config {config}"
                ) from failure
            error = difference(got, expected)
            worst = max(worst, error)
            if not error <= tolerance:
                raise VerificationError(
                    f"the subnet {what} differs from the oracle by {error:.3g} at shapes "
                    f"{shapes[-1]}, allowed {tolerance:g}; config {config}"
                )
    return Certificate(
        config=dict(config),
        shapes=tuple(shapes),
        max_error=worst,
        tolerance=tolerance,
        precision=str(precision).removeprefix("torch."),
        notes=tuple(notes),
    )

"""Checking a subnet against the oracle, and the certificate that says what was checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.subnets.comparison import (
    RANDOM,
    difference,
    find_nonfinite,
    find_randomness,
    precision_of,
    run,
    run_active,
    tolerance_of,
)
from osf_supernet.subnets.graph_module import extract_plan
from osf_supernet.subnets.oracle import masked_outputs
from osf_supernet.subnets.planning import Plan
from osf_supernet.subnets.references import Reference, what_is_kept
from osf_supernet.trace.tracing import split_inputs


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


def oracle_outputs(module: nn.Module, reference: Reference, plan: Plan) -> list[Any]:
    """The flat outputs that the subnet must have.

    Raises:
        VerificationError: they are such that nothing can be compared with them.
    """
    kept, dropped = what_is_kept(reference, plan)
    outputs = masked_outputs(module, reference.graph, kept, dropped, reference.inputs)
    if (odd := find_nonfinite(outputs)) is not None:
        raise VerificationError(f"{odd}; give example inputs and weights on which it is finite")
    return outputs


def _input_shapes(check: Reference) -> tuple[tuple[int, ...], ...]:
    leaves = pytree.tree_flatten(split_inputs(check.inputs))[0]
    return tuple(tuple(x.shape) for x in leaves if isinstance(x, Tensor))


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
    if extracted is None:
        extracted = extract_plan(module, plan)
    if not checks:
        raise VerificationError(f"the subnet cannot be checked: {'; '.join(notes)}")
    graph = checks[0].graph
    tolerance = tolerance_of(graph)
    worst, shapes = 0.0, []
    for check in checks:
        expected = oracle_outputs(module, check, plan)
        shapes.append(_input_shapes(check))
        for what, call in (
            ("running in the supernet", partial(run_active, module, plan)),
            ("extracted", partial(run, extracted)),
        ):
            try:
                error = difference(call(check.inputs), expected)
            except Exception as failure:  # a model's own code may raise anything
                raise VerificationError(
                    f"the subnet {what} does not run: {failure}; config {config}"
                ) from failure
            worst = max(worst, error)
            if not error <= tolerance and find_randomness(module, check.inputs, tolerance):
                raise VerificationError(RANDOM)
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
        precision=str(precision_of(graph)).removeprefix("torch."),
        notes=tuple(notes),
    )

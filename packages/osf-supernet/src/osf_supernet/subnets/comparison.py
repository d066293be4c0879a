"""Calls of a module and of its subnets, and how far their outputs are from each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.graph.graph import Graph
from osf_supernet.subnets.planning import Plan
from osf_supernet.subnets.surgery import active
from osf_supernet.trace.tracing import (
    call_model,
    evaluation_mode,
    first_line,
    full_precision,
    restore_afterwards,
    without_fused_attention,
)

RANDOM = (
    "two calls of the forward with the same inputs differ: it draws random numbers, which must be "
    "inputs or be left out in evaluation mode"
)


def run(module: nn.Module, inputs: Any) -> list[Any]:
    """The flat outputs of one call in evaluation mode."""
    with (
        evaluation_mode(module),
        without_fused_attention(),
        full_precision(module),
        torch.no_grad(),
    ):
        return pytree.tree_leaves(call_model(module, inputs))


def run_active(module: nn.Module, plan: Plan, inputs: Any) -> list[Any]:
    """The flat outputs of the module while it runs as a subnet."""
    with active(module, plan.surgery):
        return run(module, inputs)


def find_randomness(module: nn.Module, inputs: Any, tolerance: float) -> bool:
    """Whether two calls differ; random states are restored."""
    devices = {p.device.index for p in module.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices), restore_afterwards(module):
        try:
            first = run(module, inputs)
            return not difference(run(module, inputs), first) <= tolerance
        except Exception:  # a model's own code may raise anything; whoever calls it next says so
            return False


def training_failure(module: nn.Module, inputs: Any) -> str | None:
    """Why a call in training mode fails, or None; buffers and random states are restored."""
    devices = {p.device.index for p in module.parameters() if p.is_cuda}
    with (
        restore_afterwards(module),
        full_precision(module),
        torch.no_grad(),
        torch.random.fork_rng(devices),
    ):
        module.train()
        try:
            call_model(module, inputs)
        except Exception as failure:  # a model's own code may raise anything
            return first_line(failure)
    return None


def precision_of(graph: Graph) -> torch.dtype:
    """The coarsest floating type that any node of the graph computes in."""
    found = [torch.float64]
    for node in graph.trace.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_floating_point():
            found.append(value.dtype)
    return min(found, key=lambda dtype: -torch.finfo(dtype).eps)


def tolerance_of(graph: Graph) -> float:
    """The largest difference allowed, as a fraction of an output's largest entry."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(precision_of(graph), 3e-2)


def find_nonfinite(outputs: list[Any]) -> str | None:
    """Why nothing can be compared with these outputs (NaN, no finite entry), or None."""
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
        if isinstance(one, Tensor) and one.shape != two.shape:
            one, two = _pad_counts(one, two)
        if not isinstance(one, Tensor) or one.shape != two.shape:
            return float("inf")
        worst = max(worst, _distance(one, two))
    return worst


def _pad_counts(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Integers (counts of segments) of the same shape, with zeros behind.

    How many there are may depend on the data, where a traced graph has the most there can be.
    """
    if one.is_floating_point() or two.is_floating_point() or one.dim() != two.dim():
        return one, two
    shape = [max(sizes) for sizes in zip(one.shape, two.shape, strict=True)]
    padded = []
    for tensor in (one, two):
        whole = tensor.new_zeros(shape)
        whole[tuple(slice(size) for size in tensor.shape)] = tensor
        padded.append(whole)
    return padded[0], padded[1]


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

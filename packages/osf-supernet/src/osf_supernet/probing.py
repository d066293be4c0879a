"""Trying every kind of group once, so that what does not hold is frozen before it is used."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from osf_supernet.attributes import AttributeTable
from osf_supernet.graph import DimGroup, Graph
from osf_supernet.planning import Planner
from osf_supernet.verification import (
    Reference,
    difference,
    oracle_outputs,
    precision_of,
    run_active,
)


class Prober:
    """Runs subnets against the oracle to settle attributes and freeze what fails."""

    def __init__(self, module: nn.Module, graph: Graph, table: AttributeTable, inputs: object):
        self.module = perturbed(module)
        self.graph, self.table = graph, table
        self.reference = Reference(graph, inputs, {n: n for n in graph.groups})
        self.tolerance = 1e-8 if str(precision_of(graph)) == "torch.float64" else 1e-3
        self.reasons: dict[str, str] = {}
        self._settled: list[Mapping[str, int]] = []  # what holds; later changes must not break it

    def settle(self) -> Graph:
        """The graph with every group frozen that no choice of attributes makes right."""
        self._probe_groups(representatives(self.graph))
        for path in self.graph.units:
            self._probe_depth(path)
        current = self.graph.with_frozen(self.reasons)
        if self._try(self._half(current)) is not None:  # alike by class, yet not alike
            self._probe_groups([[group] for group in current.elastic()])
            current = self.graph.with_frozen(self.reasons)
            self._freeze_kinds(current)
        return self.graph.with_frozen(self.reasons)

    def _probe_groups(self, classes: list[list[DimGroup]]) -> None:
        for alike in classes:
            group = alike[0]
            if group.name in self.reasons:
                continue
            error = self._solve(group)
            for member in alike:
                self._note(member.name, error)

    def _probe_depth(self, path: str) -> None:
        """Leave out single blocks: each of few, else the first, the middle and the last."""
        count = len(self.graph.units[path])
        tried = range(count) if count <= 4 else (0, count // 2, count - 1)
        for index in tried:
            order = [i for i in range(count) if i != index] + [index]
            fewer = max(self.graph.least[path], count - 1)
            error = self._try({f"{path}.depth": fewer}, {path: order})
            if error is not None:
                self._note(f"{path}.depth", f"leaving out member {index} fails: {error}")

    def _solve(self, group: DimGroup) -> str | None:
        """None once some decisions make the group right, else what went wrong at first."""
        config = {group.name: half(group.size)}
        first = self._try(config)
        if first is None:
            return None
        before = self.table.decisions
        settled = self._settled[-8:]
        for single in (False, True):
            for decisions in self.table.alternatives({group.number}, single=single):
                self.table.decisions = decisions
                if self._try(config) is None and all(self._try(c) is None for c in settled):
                    return None
        self.table.decisions = before
        return f"no choice of the modules' integers computes it rightly ({first})"

    def _note(self, name: str, error: str | None) -> None:
        if error is not None:
            self.reasons[name] = error

    def _try(
        self, config: Mapping[str, int], depth_order: Mapping[str, list[int]] | None = None
    ) -> str | None:
        """None if the subnet computes what the oracle says, else how it fails."""
        planner = Planner(self.module, self.graph, self.table)
        planner.depth_order.update(depth_order or {})
        plan = planner.plan(config)
        try:
            got = run_active(self.module, plan, self.reference.inputs)
        except Exception as error:  # a model's own code may raise anything
            return str(error).strip().split("\n")[0][:160] or type(error).__name__
        distance = difference(got, oracle_outputs(self.module, self.reference, plan))
        if distance <= self.tolerance:
            if depth_order is None:
                self._settled.append(config)
            return None
        return f"it differs from the oracle by {distance:.2g}"

    def _half(self, graph: Graph) -> dict[str, int]:
        sizes = {group.name: half(group.size) for group in graph.elastic()}
        return sizes | {f"{p}.depth": max(1, len(u) // 2) for p, u in graph.units.items()}

    def _freeze_kinds(self, graph: Graph) -> None:
        """Admit one kind after another as long as all of them together hold."""
        admitted: dict[str, int] = {}
        for kind in dict.fromkeys(group.kind for group in graph.elastic()):
            names = [g.name for g in graph.elastic() if g.kind == kind]
            config = admitted | {n: half(graph_size(graph, n)) for n in names}
            error = self._try(config)
            if error is None:
                admitted = config
            else:
                for name in names:
                    self._note(name, f"together with other groups it fails ({error})")
        for path, units in graph.units.items():
            config = admitted | {f"{path}.depth": max(1, len(units) // 2)}
            error = self._try(config)
            if error is None:
                admitted = config
            else:
                self._note(f"{path}.depth", f"together with other groups it fails ({error})")


def perturbed(module: nn.Module) -> nn.Module:
    """A copy whose zeros and ones are zeros and ones no more, so that they hide no mistake."""
    module = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float32)
                noise = noise if not isinstance(tensor, nn.Parameter) else 2 * noise - 1
                tensor.add_(noise.to(tensor), alpha=0.1 * _spread(tensor))
    return module


def _spread(tensor: torch.Tensor) -> float:
    """A size for the noise: that of the finite entries, a little where they are all zero."""
    finite = tensor[torch.isfinite(tensor)].float()
    return float(finite.abs().mean()) + 0.05 if finite.numel() else 0.0


def half(size: int) -> int:
    """A size to probe with: about half, and 2 of 3."""
    return max(1, (size + 1) // 2)


def tied_by_force(graph: Graph) -> list[str]:
    """Square weights that might have to stay square for frozen groups to become elastic.

    A forward that computes the head size as width over heads, as that of `nn.MultiheadAttention`
    does, can have fewer heads only together with a smaller width; one that gives a convolution's
    result the shape of its input needs as many channels there.
    """
    found = []
    for group in graph.groups.values():
        if group.frozen and "no choice" in group.frozen:
            for name, _ in group.members:
                axes = graph.tensors[name]
                fitting = group.kind == "heads" if len(axes) == 2 else len(axes) > 2
                if fitting and axes[0].size == axes[1].size and axes[0] != axes[1]:
                    found.append(name)
    return found


def graph_size(graph: Graph, name: str) -> int:
    """The full size of a group."""
    return next(group.size for group in graph.groups.values() if group.name == name)


def representatives(graph: Graph) -> list[list[DimGroup]]:
    """Elastic groups by likeness: same kind, same parameter names and axes, size aside."""
    alike: dict[object, list[DimGroup]] = {}
    for group in graph.elastic():
        members = [(_without_numbers(name), axis) for name, axis in group.members]
        alike.setdefault((group.kind, frozenset(members)), []).append(group)
    return list(alike.values())


def _without_numbers(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split(".") if not part.isdigit())

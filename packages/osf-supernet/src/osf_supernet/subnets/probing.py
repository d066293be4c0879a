"""Trying every kind of group once, so that what does not hold is frozen before it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from osf_supernet.graph.graph import DimGroup, Graph, build_graph, named_tensors
from osf_supernet.subnets.comparison import (
    RANDOM,
    difference,
    find_randomness,
    precision_of,
    run_active,
    tolerance_of,
    training_failure,
)
from osf_supernet.subnets.integer_attributes import AttributeTable
from osf_supernet.subnets.planning import Planner, block_name
from osf_supernet.subnets.references import Reference, reference_at, with_program
from osf_supernet.subnets.surgery import active, copy_module
from osf_supernet.subnets.verification import VerificationError, oracle_outputs
from osf_supernet.trace.shapes import one_sample
from osf_supernet.trace.tracing import first_line, split_inputs

BACKENDS = ("auto", "class", "graph")


def build_checked_graph(
    model: nn.Module, inputs: Any, outputs: Sequence[str], backend: str = "auto"
) -> tuple[Graph, AttributeTable, list[str]]:
    """The graph of a model with every group frozen whose subnets differ from the oracle.

    Where widths tied to heads leave more of the parameters elastic, they are tied.

    Args:
        model: any module.
        inputs: its example.
        outputs: patterns of the outputs whose shape must stay.
        backend: what subnets run as, see `Supernet`.

    Returns:
        The graph, the modules' integers that follow sizes, and notes on what was not tried.
    """

    if backend == "graph":
        graph = build_graph(model, inputs, outputs=outputs, as_class=False)
        prober = Prober(model, graph, AttributeTable(model, graph), inputs)
        return prober.probe_graph(), prober.table, prober.notes

    def probe(square: Sequence[str]) -> tuple[Graph, Prober]:
        graph = build_graph(model, inputs, outputs=outputs, square=square)
        prober = Prober(model, graph, AttributeTable(model, graph), inputs)
        return prober.probe(), prober

    graph, prober = probe(())
    square = find_weights_to_tie(graph)
    if square:
        second = probe(square)
        if _elastic_share(second[0]) > _elastic_share(graph):
            graph, prober = second
    if backend == "auto":
        graph = prober.rescue(graph)
    return graph, prober.table, prober.notes


def _elastic_share(graph: Graph) -> int:
    """How many axes of parameters can change."""
    return sum(len(group.members) for group in graph.elastic())


class Prober:
    """Runs subnets against the oracle, to decide on attributes and to freeze what fails.

    It does so in float64, where rounding hides no mistake. Where the traced call left parameters
    out, subnets must run in training mode too, which may use them.

    Attributes:
        notes: what could not be tried, and why.
    """

    def __init__(self, module: nn.Module, graph: Graph, table: AttributeTable, inputs: Any):
        self.graph, self.table = graph, table
        self.notes: list[str] = []
        self.batch = inputs
        self.module, self.reference = self._prepare_subject(module, inputs)
        self.tolerance = tolerance_of(self.reference.graph)
        self.trains = bool(graph.unused)
        if self.trains and (failure := training_failure(self.module, self.batch)):
            self.trains = False
            self.notes.append(
                f"training mode, which may use {', '.join(graph.unused[:3])}, was not tried: "
                f"the module fails in it ({failure})"
            )
        self.reasons: dict[str, str] = {}
        self.frozen: set[str] = set()  # of those, what the trace might express
        self._expected: dict[object, list[Any]] = {}
        self._confirmed: list[Mapping[str, int]] = []  # what holds; later changes must not break it

    def _prepare_subject(self, module: nn.Module, inputs: Any) -> tuple[nn.Module, Reference]:
        """A perturbed copy and its trace, in float64 where the module runs in it."""
        subject = perturb_copy(module)
        precision = precision_of(self.graph)
        if precision != torch.float64:
            args, kwargs = split_inputs(inputs)
            wide: Any = pytree.tree_map_only(Tensor, _widen, kwargs or args)
            found: Reference | str = "no inputs"
            for given in (one_sample(wide), wide):  # one sample is cheaper
                if given is None:
                    continue
                try:
                    found = reference_at(subject.double(), self.graph, given)
                except Exception as failure:  # a device may have no float64
                    found = first_line(failure)
                if isinstance(found, Reference):
                    self.batch = wide
                    return subject, found
            self.notes.append(f"probed in {str(precision)[6:]} only: {found}")
            subject = perturb_copy(module)
        return subject, Reference(self.graph, inputs, {n: n for n in self.graph.groups})

    def probe(self) -> Graph:
        """The graph, with every group frozen that no choice of integers makes right."""
        if find_randomness(self.module, self.reference.inputs, self.tolerance):
            self.notes.append(RANDOM)
            names = [group.name for group in self.graph.elastic()]
            names += [f"{path}.depth" for path in self.graph.units]
            return self.graph.with_frozen(dict.fromkeys(names, RANDOM))
        self._probe_groups(cluster_groups(self.graph))
        for path in self.graph.units:
            self._probe_depth(path)
        current = self.graph.with_frozen(self.reasons)
        halved: dict[str, int] = {}
        for sizes in _halve_by_kind(current):
            halved |= sizes
        if self._try(halved) is not None:  # alike by class, yet not alike
            self._probe_groups([[group] for group in current.elastic()])
            self._freeze_kinds(self.graph.with_frozen(self.reasons))
        return self.graph.with_frozen(self.reasons)

    def probe_graph(self) -> Graph:
        """The graph, with every group frozen that its trace does not express."""
        names = [group.name for group in self.graph.elastic()]
        names += [f"{path}.depth" for path in self.graph.units]
        if find_randomness(self.module, self.reference.inputs, self.tolerance):
            self.notes.append(RANDOM)
            return self.graph.with_frozen(dict.fromkeys(names, RANDOM))
        self.reasons = dict.fromkeys(names, "its traced graph does not compute it rightly")
        return self.rescue(self.graph.with_frozen(self.reasons))

    def rescue(self, graph: Graph) -> Graph:
        """The graph with those frozen kinds elastic that the module's trace expresses.

        Args:
            graph: what `probe` returned.
        """
        self.frozen = {n for n, why in self.reasons.items() if "in training mode" not in why}
        if not self.frozen or RANDOM in self.notes:
            return graph
        rescued: dict[str, int] = {}
        for sizes in self._frozen_alike():
            if self._try(sizes, traced=True) is None:
                rescued |= sizes
        if not rescued:
            return graph
        everything: dict[str, int] = {}
        for sizes in _halve_by_kind(graph):
            everything |= sizes
        if self._try(everything | rescued, traced=True) is not None:
            rescued = self._rescue_together(everything)
        reasons = {name: why for name, why in self.reasons.items() if name not in rescued}
        return replace(self.graph.with_frozen(reasons), traced_only=frozenset(rescued))

    def _frozen_alike(self) -> list[dict[str, int]]:
        """Halves of what was frozen, kind by kind; blocks are left out list by list."""
        found = [
            {member.name: halve(member.size) for member in alike if member.name in self.frozen}
            for alike in cluster_groups(self.graph)
        ]
        for path, units in self.graph.units.items():
            if f"{path}.depth" in self.frozen:
                names = [block_name(unit.path) for unit in units]
                ends = dict.fromkeys((names[0], names[-1]), 0)
                if len(ends) == 2 and self._try(dict([ends.popitem()]), traced=True) is None:
                    found.append({f"{path}.depth": max(1, self.graph.least[path])})
        return [sizes for sizes in found if sizes]

    def _rescue_together(self, everything: dict[str, int]) -> dict[str, int]:
        """The frozen kinds that hold together with all that is elastic, one after the other."""
        if self._try(everything, traced=True) is not None:
            return {}
        rescued: dict[str, int] = {}
        for sizes in self._frozen_alike():
            if self._try(everything | rescued | sizes, traced=True) is None:
                rescued |= sizes
        return rescued

    def _probe_groups(self, classes: list[list[DimGroup]]) -> None:
        for alike in classes:
            group = alike[0]
            if group.name in self.reasons:
                continue
            error = self._solve(group)
            if error is not None:
                self.reasons |= dict.fromkeys((member.name for member in alike), error)

    def _probe_depth(self, path: str) -> None:
        """Leave out single blocks: each of few, else the first, the middle and the last."""
        count = len(self.graph.units[path])
        tried = range(count) if count <= 4 else (0, count // 2, count - 1)
        for index in tried:
            order = [i for i in range(count) if i != index] + [index]
            fewer = max(self.graph.least[path], count - 1)
            error = self._try({f"{path}.depth": fewer}, {path: order})
            if error is not None:
                self.reasons[f"{path}.depth"] = f"leaving out member {index} fails: {error}"

    def _solve(self, group: DimGroup) -> str | None:
        """Find decisions that make the group right; None, or the first failure."""
        config = {group.name: halve(group.size)}
        first = self._try(config)
        if first is None:
            return None
        before = self.table.decisions
        confirmed = self._confirmed[-8:]
        for single in (False, True):
            self.table.decisions = before
            for decisions in self.table.alternatives({group.number}, single=single):
                self.table.decisions = decisions
                if self._try(config) is None and all(self._try(c) is None for c in confirmed):
                    return None
        self.table.decisions = before
        return f"no choice of the modules' integers computes it rightly ({first})"

    def _try(
        self,
        config: Mapping[str, int],
        depth_order: Mapping[str, list[int]] | None = None,
        *,
        traced: bool = False,
    ) -> str | None:
        """None if the subnet computes what the oracle says, else how it fails.

        Args:
            config: the subnet.
            depth_order: another order of the blocks than theirs.
            traced: run it as the traced graph rather than in the module's class.
        """
        planner = Planner(self.module, self.graph, self.table)
        planner.depth_order.update(depth_order or {})
        plan = planner.plan(config)
        try:
            if traced:
                plan = with_program(self.module, self.reference, plan)
            got = run_active(self.module, plan, self.reference.inputs)
        except Exception as error:  # a model's own code may raise anything
            return first_line(error)
        key = (tuple(config.items()), str(depth_order))
        try:
            if key not in self._expected:
                self._expected[key] = oracle_outputs(self.module, self.reference, plan)
        except VerificationError as error:
            return str(error)
        distance = difference(got, self._expected[key])
        if not distance <= self.tolerance:
            return f"it differs from the oracle by {distance:.2g}"
        if self.trains and not traced:
            with active(self.module, plan.surgery):
                failure = training_failure(self.module, self.batch)
            if failure is not None:
                return f"in training mode: {failure}"
        if depth_order is None and not traced:
            self._confirmed.append(config)
        return None

    def _freeze_kinds(self, graph: Graph) -> None:
        """Freeze the kinds that fail together with those before them."""
        admitted: dict[str, int] = {}
        for sizes in _halve_by_kind(graph):
            error = self._try(admitted | sizes)
            if error is None:
                admitted |= sizes
            else:
                reason = f"together with other groups it fails ({error})"
                self.reasons |= dict.fromkeys(sizes, reason)


def require_plain(module: nn.Module) -> None:
    """Refuse tensors that cannot be cut.

    Raises:
        ValueError: one has no values, is quantized, or is spread over processes; or the module is
            TorchScript.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            "a TorchScript module cannot be followed: build the supernet of the module that was "
            "scripted or traced, and script what `extract` returns"
        )
    tensors: Mapping[str, Any] = named_tensors(module)
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(
                f"{name} is on the meta device, but the supernet tries subnets on the weights: "
                "load them first (`to_empty` and `load_state_dict`)"
            )
        if tensor.is_quantized or is_traceable_wrapper_subclass(tensor):
            raise ValueError(
                f"{name} must be a plain tensor, got {type(tensor).__name__}: build the supernet "
                "of the plain model; quantize or distribute what `extract` returns"
            )
    for path, child in module.named_modules():
        origin = type(child).__module__
        if origin.startswith(("torch.nn.", "torch.ao.nn.")) and "quantized" in origin:
            raise ValueError(
                f"{path or 'the module'} is quantized ({type(child).__name__}): build the "
                "supernet of the float model and quantize what `extract` returns"
            )


def perturb_copy(module: nn.Module) -> nn.Module:
    """A copy with noise on every floating tensor, since zeros and ones would hide mistakes."""
    module = copy_module(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float32)
                noise = noise if not isinstance(tensor, nn.Parameter) else 2 * noise - 1
                tensor.add_(noise.to(tensor), alpha=0.1 * _spread(tensor))
    return module


def _spread(tensor: Tensor) -> float:
    """The scale of the noise: that of the finite entries, and enough to keep signals alive."""
    finite = tensor[torch.isfinite(tensor)].float()
    if not finite.numel():
        return 0.0
    weight = isinstance(tensor, nn.Parameter) and tensor.dim() > 1
    least = max(0.05, 5 * tensor[0].numel() ** -0.5) if weight else 0.05
    return float(finite.abs().mean()) + least


def _widen(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def halve(size: int) -> int:
    """A size to probe with: half of it, rounded up."""
    return max(1, (size + 1) // 2)


def find_weights_to_tie(graph: Graph) -> list[str]:
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


def _halve_by_kind(graph: Graph) -> list[dict[str, int]]:
    """About half of the size of everything elastic: for each kind of group, then for each list."""
    kinds: dict[str, dict[str, int]] = {}
    for group in graph.elastic():
        kinds.setdefault(group.kind, {})[group.name] = halve(group.size)
    depths = [{f"{path}.depth": max(1, len(u) // 2)} for path, u in graph.units.items()]
    return [*kinds.values(), *depths]


def cluster_groups(graph: Graph) -> list[list[DimGroup]]:
    """Similar elastic groups together: same kind, parameter names and axes, of any size."""
    alike: dict[object, list[DimGroup]] = {}
    for group in graph.elastic():
        members = [(_without_numbers(name), axis) for name, axis in group.members]
        alike.setdefault((group.kind, frozenset(members)), []).append(group)
    return list(alike.values())


def _without_numbers(name: str) -> tuple[str, ...]:
    """The parts of a path without numbers: `3` is dropped, `encoder_layer_3` is `encoder_layer`."""
    return tuple(re.sub(r"_\d+$", "", part) for part in name.split(".") if not part.isdigit())

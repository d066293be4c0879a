"""A module together with every smaller module inside it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.graph.explanation import explain
from osf_supernet.graph.graph import named_tensors
from osf_supernet.search.latency import LatencyTable
from osf_supernet.search.search import Search, SearchResult
from osf_supernet.subnets.attributes import integers_of
from osf_supernet.subnets.importance import importance, permute
from osf_supernet.subnets.planning import Config, Counts, Plan, Planner
from osf_supernet.subnets.probing import require_plain, settled_graph
from osf_supernet.subnets.space import Choice, Space, default_space
from osf_supernet.subnets.surgery import ActiveReport, accumulating, active, operate, require_whole
from osf_supernet.subnets.verification import (
    Certificate,
    Reference,
    difference,
    references,
    run,
    run_active,
    tolerance_of,
    verify,
)
from osf_supernet.trace.tracing import Inputs


class Supernet:
    """Any module as a weight-sharing supernet.

    The module is traced, its coupled dimensions are found, and every kind of group is tried
    once against an oracle; what fails or is not understood is frozen, with the reason
    (`explain`). The module itself stays the only holder of weights.

    Attributes:
        model: the module.
        graph: its dimension groups and depth units.
        inputs: the example it was traced with.
        outputs: patterns of the outputs whose shape must stay.
        space: the choices by pattern.
        choices: group or depth list name → the sizes it may take, ascending.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Inputs | Tensor,
        space: Space | Mapping[str, Choice] | None = None,
        *,
        outputs: Sequence[str] = ("*",),
        more_inputs: Sequence[Any] = (),
    ) -> None:
        """Analyse a module.

        Args:
            model: any module that `torch.export` can follow.
            example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments;
                what is not a tensor is passed as it is.
            space: the sizes to choose from; inner widths, heads, channels and depth by default.
            outputs: patterns of outputs whose shape must stay; all by default.
            more_inputs: inputs of other shapes that verification checks as well; a larger
                batch is always among the checks where the inputs share a first dimension.

        Raises:
            TraceError: the model could be neither exported nor recorded.
            ValueError: its tensors hold no values that could be cut, or the space does not fit.
            TypeError: the inputs have no such form.
        """
        require_plain(model)
        self._placement = _placement(model)
        self.model = model
        self.inputs = example_inputs
        self.outputs = tuple(outputs)
        self._more_inputs = list(more_inputs)
        self.graph, self._table, self._notes = settled_graph(model, example_inputs, outputs)
        self.space = default_space(self.graph) if space is None else Space(dict(space))
        self.choices = self.space.resolve(self.graph)
        self._planner = Planner(model, self.graph, self._table)
        self._counts = Counts(self._planner)
        self._plans: dict[tuple[tuple[str, int], ...], Plan] = {}
        self._checks: tuple[list[Reference], list[str]] | None = None
        self._checked_state: list[Any] = []
        self._scores: dict[int, Tensor] = {}
        self._block_changes: dict[str, list[float]] = {}

    @property
    def largest(self) -> Config:
        """Every choice at its largest."""
        return {name: values[-1] for name, values in self.choices.items()}

    @property
    def smallest(self) -> Config:
        """Every choice at its smallest."""
        return {name: values[0] for name, values in self.choices.items()}

    @property
    def depth_orders(self) -> dict[str, list[int]]:
        """List path → its units, the most important first; smaller depths keep the first."""
        return {path: list(order) for path, order in self._planner.depth_order.items()}

    @depth_orders.setter
    def depth_orders(self, orders: Mapping[str, Sequence[int]]) -> None:
        for path, order in orders.items():
            known = self._planner.depth_order.get(path)
            if known is None or sorted(order) != sorted(known):
                raise ValueError(f"{path} has units {known}, got the order {list(order)}")
        self._planner.depth_order.update({path: list(o) for path, o in orders.items()})
        self._plans.clear()

    def sample(
        self,
        *,
        seed: int | str,
        max_params: float | None = None,
        max_flops: float | None = None,
    ) -> Config:
        """A random config, the same for the same seed everywhere.

        Args:
            seed: of Python's generator, so that all ranks draw alike.
            max_params: a bound; a float of at most 1 is a fraction of the full model.
            max_flops: the same for floating point operations.

        Raises:
            ValueError: even the smallest config exceeds a bound.
        """
        generator = random.Random(seed)
        config = {name: generator.choice(values) for name, values in self.choices.items()}
        limits = [
            (count, _limit(bound, count({})))
            for count, bound in ((self.parameters_of, max_params), (self.flops_of, max_flops))
            if bound is not None
        ]
        for count, limit in limits:
            if count(self.smallest) > limit:
                raise ValueError(
                    f"the smallest config has {count(self.smallest):,}, more than {limit:,.0f}; "
                    "raise the bound or widen the space"
                )
        while any(count(config) > limit for count, limit in limits):
            larger = [name for name, values in self.choices.items() if config[name] > values[0]]
            name = generator.choice(larger)
            values = self.choices[name]
            config[name] = values[values.index(config[name]) - 1]
        return config

    def parameters_of(self, config: Mapping[str, Any]) -> Any:
        """The exact number of parameters of a subnet, in closed form.

        Sizes may also be integer tensors, one entry per candidate; then so is the result.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
        """
        return self._counts.parameters(config)

    def flops_of(self, config: Mapping[str, Any]) -> Any:
        """Floating point operations of a subnet at the example's shapes, as `FlopCounterMode`.

        What has no closed form (recurrent cells, an einsum of three operands) counts as in the
        full model. Sizes and errors are as of `parameters_of`.
        """
        return self._counts.operations(config)

    def active(self, config: Mapping[str, int]) -> AbstractContextManager[ActiveReport]:
        """Run `self.model` as a subnet inside a `with` block, on shared weights.

        Gradients land in the full parameters. The model is restored afterwards, also after an
        exception.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
            RuntimeError: the model runs as a subnet already; blocks do not nest.
        """
        return active(self.model, self.plan(config).surgery)

    def training(self, config: Mapping[str, int]) -> AbstractContextManager[None]:
        """`active` with a cheaper backward: gradients go straight into the full parameters'.

        Raises as `active` does.
        """
        return accumulating(self.model, self.plan(config).surgery)

    def plan(self, config: Mapping[str, int]) -> Plan:
        """What a config keeps: for the module and for the oracle.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
        """
        key = tuple(sorted(config.items()))
        if key not in self._plans:
            if len(self._plans) > 256:
                self._plans.clear()
            self._plans[key] = self._planner.plan(config)
        return self._plans[key]

    def verify(self, config: Mapping[str, int]) -> Certificate:
        """Compare the subnet, in the supernet and extracted, with the oracle.

        Raises:
            VerificationError: they differ.
        """
        checks, notes = self._references()
        return verify(self.model, self.plan(config), dict(config), checks, notes)

    def extract(self, config: Mapping[str, int]) -> nn.Module:
        """A verified plain module of the same class, without any tie to the supernet.

        Its attribute `osf_record` holds the config, what `load` needs, and the certificate.

        Raises:
            KeyError: as of `plan`, like the next two.
            ValueError: see there.
            RuntimeError: the model runs as a subnet.
            VerificationError: it does not compute what the oracle says.
        """
        plan = self.plan(config)
        module = operate(self.model, plan.surgery)
        checks, notes = self._references()
        certificate = verify(self.model, plan, dict(config), checks, notes, module)
        record = {
            "format": 1,
            "class": type(self.model).__qualname__,
            "config": dict(config),
            "attributes": dict(plan.surgery.attributes),
            "items": {path: list(kept) for path, kept in plan.surgery.items.items()},
            "certificate": certificate.to_dict(),
            "full": {
                "shapes": {n: list(p.shape) for n, p in self.model.named_parameters()},
                "integers": self._table.followed(),
            },
        }
        vars(module)["osf_record"] = record
        return module

    def reorder(
        self,
        method: str = "magnitude",
        batches: Sequence[Any] = (),
        loss: Callable[[Any], Tensor] | None = None,
    ) -> None:
        """Sort every group by importance, so that a smaller size keeps the most important.

        One permutation per group is applied to the weights in place; the full model computes
        the same function (checked). Blocks of a depth list are ranked by how much the outputs
        change without them.

        Args:
            method: magnitude, taylor, fisher, wanda, activation or random.
            batches: inputs in the form of `example_inputs`, for the methods that need data.
            loss: outputs → scalar, for taylor and fisher.

        Raises:
            ValueError: no such method, no loss for one that needs it, or batches of another form.
            RuntimeError: the function changed (the weights are put back), the model runs as a
                subnet, or its precision is another now.
        """
        require_whole(self.model)
        self._follow_model()
        before = run(self.model, self.inputs)
        saved = {n: x.detach().clone() for n, x in named_tensors(self.model).items()}
        scores = importance(self.model, self.graph, method, batches or [self.inputs], loss)
        order = {n: score.argsort(descending=True, stable=True) for n, score in scores.items()}
        permute(self.model, self.graph, order)
        error = difference(run(self.model, self.inputs), before)
        tolerance = tolerance_of(self.graph)
        if not error <= tolerance:
            with torch.no_grad():
                for name, tensor in named_tensors(self.model).items():
                    tensor.copy_(saved[name])
            raise RuntimeError(
                f"sorting changed the model's function by {error:.3g}, allowed {tolerance:g}; it "
                "was put back. If it does so in float64 too, this is a defect of the graph: "
                "please report the model"
            )
        self._scores = {n: score[order[n]].double() for n, score in scores.items()}
        if method != "random":
            self._rank_blocks(before)
        self._plans.clear()

    def rank(
        self,
        method: str = "magnitude",
        batches: Sequence[Any] = (),
        loss: Callable[[Any], Tensor] | None = None,
    ) -> None:
        """Score groups and blocks as they stand, for the greedy path of `search`; nothing moves.

        A supernet that was trained must not be sorted again: its subnets would become others.

        Args:
            method: as of `reorder`, like the next two.
            batches: see there.
            loss: see there.
        """
        self._follow_model()
        scores = importance(self.model, self.graph, method, batches or [self.inputs], loss)
        self._scores = {number: score.double() for number, score in scores.items()}
        changes = self._changes_without(run(self.model, self.inputs))
        for path, change in changes.items():
            order = self._planner.depth_order[path]
            self._block_changes[path] = [change[index] for index in order]

    def importance_between(self, name: str, smaller: int, larger: int) -> float:
        """The share of a group's (or depth list's) importance that shrinking it gives up.

        By the scores of the last `reorder` or `rank`; without one, or for lists that were not
        ranked, every index counts alike.
        """
        path = name.removesuffix(".depth")
        if path in self._block_changes:
            scores = torch.tensor(self._block_changes[path], dtype=torch.float64)
        else:
            group = self._planner.by_name.get(name)
            found = None if group is None else self._scores.get(group.number)
            full = self._planner.full_sizes()[name]
            scores = torch.ones(full, dtype=torch.float64) if found is None else found
        total = float(scores.sum())
        return float(scores[smaller:larger].sum()) / total if total > 0 else 0.0

    def search(
        self,
        evaluate: Callable[[nn.Module], float],
        *,
        max_params: float | None = None,
        max_flops: float | None = None,
        max_latency_ms: float | None = None,
        latency: LatencyTable | None = None,
        population: int = 24,
        generations: int = 10,
        greedy: int = 12,
        seed: int = 0,
        folder: str | Path | None = None,
    ) -> SearchResult:
        """The best subnets under bounds: greedy by importance, then NSGA-II.

        The first bound that is given (in the order of the arguments; parameters without any)
        is the cost of the Pareto front. Importance is that of the last `reorder` or `rank`, or
        else magnitude, as the supernet stands.

        Args:
            evaluate: model → score, higher is better; the model runs as the subnet meanwhile.
            max_params: a bound; a float of at most 1 is a fraction of the full model.
            max_flops: the same for floating point operations.
            max_latency_ms: a bound on measured latency; measured now unless `latency` is given.
            latency: a table measured before.
            population: subnets per generation.
            generations: of NSGA-II; 0 keeps to the greedy path.
            greedy: how many subnets of the greedy path are evaluated.
            seed: of the search; the same seed and scores give the same result.
            folder: where evaluations are kept, so that a search that is started again goes on.

        Raises:
            ValueError: even the smallest config exceeds a bound.
        """
        if not self._scores:
            self.rank()
        if max_latency_ms is not None and latency is None:
            latency = LatencyTable.measure(self)
        limits = {
            "params": None if max_params is None else _limit(max_params, self.parameters_of({})),
            "flops": None if max_flops is None else _limit(max_flops, self.flops_of({})),
            "latency_ms": max_latency_ms,
        }

        def scored(config: Config) -> float:
            with self.active(config):
                return evaluate(self.model)

        search = Search(
            self,
            scored,
            {name: limit for name, limit in limits.items() if limit is not None},
            latency,
            None if folder is None else Path(folder),
        )
        return search.run(population, generations, seed, greedy)

    def explain(self) -> str:
        """Every group: elastic, with its choices, or frozen, with the reason."""
        return explain(self.graph, self.choices)

    def _rank_blocks(self, full: list[Any]) -> None:
        for path, change in self._changes_without(full).items():
            ranked = sorted(change, key=lambda index: -change[index])
            self._planner.depth_order[path] = ranked
            self._block_changes[path] = [change[index] for index in ranked]

    def _changes_without(self, full: list[Any]) -> dict[str, dict[int, float]]:
        """List path → unit → how much the outputs change without it."""
        changes: dict[str, dict[int, float]] = {}
        for path, units in self.graph.units.items():
            if len(units) < 2:
                continue
            order, change = self._planner.depth_order[path], {}
            for index in range(len(units)):
                others = [i for i in range(len(units)) if i != index]
                self._planner.depth_order[path] = [*others, index]
                plan = self._planner.plan({f"{path}.depth": len(units) - 1})
                change[index] = difference(run_active(self.model, plan, self.inputs), full)
            self._planner.depth_order[path] = order
            changes[path] = change
        return changes

    def _references(self) -> tuple[list[Reference], list[str]]:
        """What to compare with; made anew when a call of the model changed its integers.

        Swin keeps the window and shift of the smallest image it has seen.
        """
        self._follow_model()
        state = [list(integers_of(child)) for child in self.model.modules()]
        if self._checks is None or state != self._checked_state:
            found, notes = references(self.model, self.graph, self.inputs, self._more_inputs)
            self._checks = found, self._notes + notes
            self._checked_state = state
        return self._checks

    def _follow_model(self) -> None:
        """Bring the example and the graph to where the model was moved.

        Raises:
            RuntimeError: it has another precision now, and the graph another one's operators.
        """
        devices, types = _placement(self.model)
        known, made_in = self._placement
        if types != made_in:
            raise RuntimeError(
                f"the supernet was made of a model in {', '.join(sorted(map(str, made_in)))}, now "
                f"it is in {', '.join(sorted(map(str, types)))}: convert it back, or make another "
                "Supernet of it"
            )
        if devices != known and len(devices) == 1:
            (device,) = devices
            self.graph.trace.move(device)
            self.inputs, self._more_inputs = pytree.tree_map_only(
                Tensor, lambda x: x.to(device), (self.inputs, self._more_inputs)
            )
            self._placement, self._checks = (devices, types), None


def _placement(model: nn.Module) -> tuple[set[torch.device], set[torch.dtype]]:
    """The devices and floating types of a model's parameters."""
    parameters = list(model.parameters())
    types = {p.dtype for p in parameters if p.is_floating_point()}
    return {p.device for p in parameters}, types


def _limit(bound: float, full: int) -> float:
    return bound * full if isinstance(bound, float) and bound <= 1 else bound

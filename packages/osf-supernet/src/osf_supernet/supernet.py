"""A module together with every smaller module inside it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from osf_supernet.subnets.batch_losses import Loss
from osf_supernet.subnets.bounds import Bounds, resolve_share, sample_config
from osf_supernet.subnets.counts import Counts
from osf_supernet.subnets.graph_module import extract_plan
from osf_supernet.subnets.overview import Overview
from osf_supernet.subnets.planning import Config, Plan, Planner, block_name
from osf_supernet.subnets.pretrained_config import fit_config, is_pretrained_model
from osf_supernet.subnets.probing import BACKENDS, build_checked_graph, require_plain
from osf_supernet.subnets.ranking import Ranking, rank_model, sort_model
from osf_supernet.subnets.references import ReferenceCache
from osf_supernet.subnets.space import Choice, Space, default_space, tie_layers
from osf_supernet.subnets.surgery import (
    ActiveReport,
    Surgery,
    active,
    active_for_training,
    require_inactive,
)
from osf_supernet.subnets.verification import Certificate, verify
from osf_supernet.trace.tracing import Inputs


class Supernet:
    """Any module as a weight-sharing supernet.

    The module is traced, its coupled dimensions are found, and every kind of group is tried
    once against an oracle; what fails or is not understood is frozen, with the reason
    (`explain`). All weights stay in the module.

    Attributes:
        model: the module.
        graph: its dimension groups and depth units.
        inputs: the example it was traced with.
        outputs: patterns of the outputs whose shape must stay.
        backend: "auto", "class" or "graph".
        space: the choices by pattern.
        choices: group or depth list name → the sizes it may take, ascending; of a uniform space
            the first of the layers alone, whose size the others have too.
        ties: in a uniform space, that first name → all names that have its size.
        ranking: importance by the last `reorder` or `rank`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Inputs | Tensor,
        space: Space | Mapping[str, Choice] | None = None,
        *,
        outputs: Sequence[str] = ("*",),
        more_inputs: Sequence[Any] = (),
        backend: str = "auto",
    ) -> None:
        """Analyze a module.

        Args:
            model: any module that `torch.export` can follow.
            example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments;
                what is not a tensor is passed as it is.
            space: the sizes to choose from; inner widths, heads, channels and depth by default.
            outputs: patterns of outputs whose shape must stay; all by default.
            more_inputs: inputs of other shapes that verification checks as well; a larger
                batch is always among the checks where the inputs share a first dimension.
            backend: what subnets are. "auto": modules of the model's class, and traced graphs with
                the sizes baked in where it cannot express a size; "class": no such sizes;
                "graph": always graphs, which are limited by nothing that the class computes
                (heads of `nn.MultiheadAttention` are independent of the width).

        Raises:
            TraceError: the model could be neither exported nor recorded.
            ValueError: its tensors hold no values that could be cut, the space does not fit, or
                there is no such backend.
            TypeError: the inputs have no such form.
        """
        require_plain(model)
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        self.backend = backend
        self.model = model
        self.outputs = tuple(outputs)
        self.graph, self._table, notes = build_checked_graph(
            model, example_inputs, outputs, backend
        )
        self.space = default_space(self.graph) if space is None else _as_space(space)
        self._planner = Planner(model, self.graph, self._table)
        self._counts = Counts(self._planner)
        self._plans: dict[tuple[tuple[str, int], ...], Plan] = {}
        self._references = ReferenceCache(model, self.graph, example_inputs, more_inputs, notes)
        self._planner.complete = self._references.complete
        self.ranking = Ranking()

    @property
    def inputs(self) -> Any:
        """The example it was traced with, on the device where the model was last checked."""
        return self._references.inputs

    @property
    def space(self) -> Space:
        """The choices by pattern; another one may be set."""
        return self._space

    @space.setter
    def space(self, space: Space) -> None:
        every = space.resolve(self.graph)
        self.ties = tie_layers(every) if space.uniform else {}
        self.choices = {name: every[name] for name in self.ties} if space.uniform else every
        self._space = space

    def expand(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config with the sizes of all layers that a uniform space ties to those given."""
        found = dict(config)
        for name in config:
            for other in self.ties.get(name, ()):
                found.setdefault(other, config[name])
        return found

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

    @property
    def blocks(self) -> dict[str, list[str]]:
        """List path → the names that its blocks have in configs (1 kept, 0 left out)."""
        return {
            path: [block_name(unit.path) for unit in units]
            for path, units in self.graph.units.items()
        }

    def left_out(self, config: Mapping[str, int]) -> dict[str, list[int]]:
        """List path → indices of the blocks that a config leaves out.

        Raises:
            ValueError: fewer are kept than the list needs.
        """
        return self._planner.left_out(self.expand(config))

    def canonical(self, config: Mapping[str, int]) -> Config:
        """The shortest config of the same subnet: equal for two configs that differ unseen.

        Sizes inside left-out blocks make no difference, nor does it whether a block is left out
        by its list's depth or by its own name.
        """
        return self._planner.canonical(self.expand(config))

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
        bounds = Bounds(
            {"params": self.parameters_of, "flops": self.flops_of},
            {
                "params": resolve_share(max_params, self.parameters_of),
                "flops": resolve_share(max_flops, self.flops_of),
            },
        )
        bounds.require_fit(self.smallest)
        generator = random.Random(seed)
        return bounds.shrink(sample_config(self.choices, generator), self.choices, generator)

    def parameters_of(self, config: Mapping[str, Any]) -> Any:
        """The exact number of parameters of a subnet, in closed form.

        Sizes may also be integer tensors, one entry per candidate; then so is the result.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
        """
        return self._counts.parameters(self.expand(config))

    def flops_of(self, config: Mapping[str, Any]) -> Any:
        """Floating point operations of a subnet at the example's shapes, as `FlopCounterMode`.

        With math kernels: that mode sees nothing of fused ones (see `graph.flops`). What has no
        closed form (recurrent cells, an einsum of three operands) counts as in the
        full model. Sizes may also be integer tensors, one entry per candidate.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
        """
        return self._counts.operations(self.expand(config))

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
        """`active` with a cheaper backward: gradients are added to the full parameters directly.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
            RuntimeError: the model runs as a subnet already; blocks do not nest.
        """
        return active_for_training(self.model, self.plan(config).surgery)

    def plan(self, config: Mapping[str, int]) -> Plan:
        """The indices, integers and blocks that a config keeps.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
        """
        config = self.expand(config)
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
        config = self.expand(config)
        plan = self.plan(config)
        checks, notes = self._references.checks_of(plan)
        return verify(self.model, plan, config, checks, notes)

    def extract(self, config: Mapping[str, int]) -> nn.Module:
        """A verified plain module of the same class, without any tie to the supernet.

        Where the class cannot express a size, it is the traced graph with the sizes baked in, a
        `GraphSubnet`: `osf_record["backend"]` is "graph" then.
        Its attribute `osf_record` holds the config, what `load_subnet` needs, and the certificate.
        A model of transformers has a config that says its sizes, or a `save_pretrained` that says
        why it cannot.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
            RuntimeError: the model runs as a subnet.
            VerificationError: it does not compute what the oracle says.
        """
        config = self.expand(config)
        plan = self.plan(config)
        module = extract_plan(self.model, plan)
        checks, notes = self._references.checks_of(plan)
        certificate = verify(self.model, plan, config, checks, notes, module)
        record: dict[str, Any] = {
            "format": 1,
            "class": type(self.model).__qualname__,
            "config": config,
            "attributes": dict(plan.surgery.attributes),
            "items": {path: list(kept) for path, kept in plan.surgery.items.items()},
            "certificate": certificate.to_dict(),
            "full": {
                "shapes": {n: list(p.shape) for n, p in self.model.named_parameters()},
                "integers": self._table.dependent_integers(),
            },
        }
        if plan.traced:
            record |= {"backend": "graph", "gone": list(plan.gone)}
        vars(module)["osf_record"] = record
        if not plan.traced and is_pretrained_model(module) and plan.surgery != Surgery():
            fit_config(module, self.inputs, max(certificate.tolerance, 1e-6))
        return module

    def reorder(
        self,
        method: str = "magnitude",
        batches: Sequence[Any] = (),
        loss: Loss | None = None,
    ) -> None:
        """Sort every group by importance, so that a smaller size keeps the most important.

        One permutation per group is applied to the weights in place; the full model computes
        the same function (checked). Blocks of a depth list are ranked by how much the outputs
        change without them.

        Args:
            method: magnitude, taylor, fisher, wanda, activation or random.
            batches: inputs in the form of `example_inputs`, for the methods that need data; pairs
                (inputs, targets) where the loss takes targets.
            loss: `loss(outputs, targets)` or `loss(outputs)`, for taylor and fisher.

        Raises:
            ValueError: no such method, no loss for one that needs it, or batches of another form.
            RuntimeError: the function changed (the weights are restored), the model runs as a
                subnet, or its precision is another now.
        """
        require_inactive(self.model)
        self._references.follow_model()
        self.ranking = sort_model(self._planner, self.inputs, method, batches, loss, self.ranking)
        self._plans.clear()

    def rank(
        self,
        method: str = "magnitude",
        batches: Sequence[Any] = (),
        loss: Loss | None = None,
    ) -> None:
        """Score groups and blocks without sorting, for the greedy path of `search_subnets`.

        A trained supernet must not be sorted again: its subnets would become others.

        Args:
            method: magnitude, taylor, fisher, wanda, activation or random.
            batches: inputs in the form of `example_inputs`, for the methods that need data; pairs
                (inputs, targets) where the loss takes targets.
            loss: `loss(outputs, targets)` or `loss(outputs)`, for taylor and fisher.
        """
        self._references.follow_model()
        self.ranking = rank_model(self._planner, self.inputs, method, batches, loss)

    def importance_between(self, name: str, smaller: int, larger: int) -> float:
        """The share of a group's (or depth list's) importance that shrinking it gives up.

        By the scores of the last `reorder` or `rank`; without one, or for lists that were not
        ranked, every index counts alike.
        """
        return self.ranking.share_between(self._planner, name, smaller, larger)

    def explain(self, *, everything: bool = False) -> str:
        """How small it can get, what each choice is worth, and what is frozen and why.

        Args:
            everything: Also axes that nobody would expect to change, of kernels and inputs.
        """
        return self._overview().explain(everything=everything)

    def __repr__(self) -> str:
        """A short table: how small it can get, and what kinds of choices there are."""
        return self._overview().short()

    def headline(self) -> str:
        """One line: the class, its parameters and its operations."""
        return self._overview().headline()

    def _overview(self) -> Overview:
        tied = {other: name for name, names in self.ties.items() for other in names}
        every = {other: self.choices[name] for other, name in tied.items()} or self.choices
        followers = {other for other, name in tied.items() if other != name}
        return Overview(self.model, self.graph, every, self._counts, self.inputs, followers)


def _as_space(space: Space | Mapping[str, Choice]) -> Space:
    return space if isinstance(space, Space) else Space(space)

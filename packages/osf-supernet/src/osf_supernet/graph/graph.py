"""The graph representation of a module: which dimensions are one, and which can change.

`build_graph` traces a module, unites its axes and names the result: dimension groups (with a
kind, their members and, where frozen, the reason) and depth units (residual blocks that can be
left out).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from osf_supernet.counting import storage_key
from osf_supernet.graph import rules_compute, rules_indexing, rules_structure
from osf_supernet.graph.depth import DepthUnit, find_depth_units
from osf_supernet.graph.expressions import Atom, Expression, Numbering, groups_in
from osf_supernet.graph.flops import Cost, costs_of
from osf_supernet.graph.propagation import Propagation
from osf_supernet.trace.tracing import Inputs, Trace, trace

RULE_MODULES = (
    rules_compute,
    rules_indexing,
    rules_structure,
)  # importing them registers the rules


@dataclass(frozen=True, kw_only=True)
class DimGroup:
    """One dimension of the network, wherever it appears.

    Attributes:
        number: its number in expressions.
        name: module path and kind, unique.
        kind: experts, mlp, heads, heads_per_group, head_dim, embed, channel, ssm_inner or free.
        size: the full size.
        members: (parameter or buffer name, axis) pairs that contain it.
        frozen: why it cannot change, or None.
        normalized: whether a norm takes statistics over it.
    """

    number: int
    name: str
    kind: str
    size: int
    members: tuple[tuple[str, int], ...]
    frozen: str | None
    normalized: bool


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What a trace says about a module.

    Attributes:
        trace: the graph it was read from.
        groups: every group that a parameter contains, by number.
        units: depth units by list path.
        tensors: parameter or buffer name → one expression per axis.
        values: graph node → one expression per axis (or a list of such lists).
        costs: floating point operations per node.
        propagation: contraction and normalization notes.
        refused: list path → why its members cannot be left out.
        least: list path → the fewest units to keep: none where the list has other members.
        square: weights whose two axes were taken to be one.
        as_class: whether it says what a module of the class can be, rather than its trace.
        unused: parameters that the traced call never used.
        traced_only: groups and depth lists, by name, whose sizes the module's class cannot express:
            their subnets run as the traced graph.
    """

    trace: Trace
    groups: dict[int, DimGroup]
    units: dict[str, tuple[DepthUnit, ...]]
    tensors: dict[str, tuple[Expression, ...]]
    values: dict[fx.Node, Any]
    costs: tuple[Cost, ...]
    propagation: Propagation
    refused: dict[str, str] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)
    square: tuple[str, ...] = ()
    as_class: bool = True
    unused: tuple[str, ...] = ()
    traced_only: frozenset[str] = frozenset()

    def elastic(self) -> list[DimGroup]:
        """The groups that can change."""
        return [group for group in self.groups.values() if group.frozen is None]

    def with_frozen(self, reasons: dict[str, str]) -> Graph:
        """The same graph with more groups (or depth lists) frozen, by name."""
        groups = {
            number: replace(group, frozen=reasons[group.name]) if group.name in reasons else group
            for number, group in self.groups.items()
        }
        units = {path: u for path, u in self.units.items() if f"{path}.depth" not in reasons}
        refused = self.refused | {p: reasons[f"{p}.depth"] for p in self.units if p not in units}
        return replace(self, groups=groups, units=units, refused=refused)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under every name they have."""
    named: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return named | dict(module.named_buffers(remove_duplicate=False))


def build_graph(
    module: nn.Module,
    example_inputs: Inputs | Tensor,
    *,
    outputs: Sequence[str] = ("*",),
    square: Sequence[str] = (),
    as_class: bool = True,
) -> Graph:
    """The graph of a module in evaluation mode.

    Args:
        module: any module that `torch.export` can follow; left as it was.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments.
        outputs: patterns of the outputs whose shape must stay, such as `*logits*`.
        square: weights whose two axes are one, besides those of `nn.MultiheadAttention`.
        as_class: whether subnets are to be modules of the class, which limits their sizes: those
            of `nn.MultiheadAttention` are width over heads, and attention scales follow heads.
    """
    traced = trace(module, example_inputs)
    tensors = named_tensors(module)
    own = square_attention(module) if as_class else []
    square = tuple(dict.fromkeys([*own, *square]))
    propagation = Propagation(traced, tensors, square, outputs, as_class=as_class)
    numbering = Numbering()
    expressions = {
        name: tuple(numbering.expression(axis) for axis in propagation.names[name])
        for name in tensors
    }
    used = {n for axes in expressions.values() for e in axes for n in groups_in(e)}
    values = pytree.tree_map(numbering.expression, propagation.labels)
    reached = _used_tensors(traced, tensors)
    groups = _groups(numbering, used, expressions, reached, tensors)
    units, refused = find_depth_units(module, traced, propagation)
    return Graph(
        trace=traced,
        groups=groups,
        units=units,
        tensors=expressions,
        values=values,
        costs=costs_of(traced, values),
        propagation=propagation,
        refused=refused,
        least={path: _least(module, path, len(found)) for path, found in units.items()},
        square=square,
        as_class=as_class,
        unused=tuple(n for n, p in module.named_parameters() if storage_key(p) not in reached),
    )


def _used_tensors(trace: Trace, tensors: dict[str, Tensor]) -> set[Hashable]:
    """The parameters and buffers that the traced call used."""
    called = [n for n in trace.nodes if n.name in trace.parameters and n.users]
    names = [trace.parameters[node.name] for node in called]
    return {storage_key(tensors[name]) for name in names if name in tensors}


def _least(module: nn.Module, path: str, units: int) -> int:
    owner: Any = module.get_submodule(path)
    return 0 if len(owner) > units else 1


def square_attention(module: nn.Module) -> list[str]:
    """Weights whose two axes are one: `nn.MultiheadAttention` has heads × head size = width.

    Its forward computes the head size as width over heads, so that fewer heads of the same
    size are possible only together with a smaller width.
    """
    return [
        f"{path}.out_proj.weight" if path else "out_proj.weight"
        for path, child in module.named_modules(remove_duplicate=False)
        if isinstance(child, nn.MultiheadAttention)
    ]


def _groups(
    numbering: Numbering,
    used: set[int],
    tensors: dict[str, tuple[Expression, ...]],
    reached: set[Hashable],
    named: dict[str, Tensor],
) -> dict[int, DimGroup]:
    """Kinds, names and members of every atom in a parameter or buffer."""
    ties: dict[Hashable, str] = {}
    members: dict[int, list[tuple[str, int]]] = {number: [] for number in sorted(used)}
    unreached: set[int] = set()
    for name, axes in tensors.items():
        if ties.setdefault(storage_key(named[name]), name) != name:
            continue
        for axis, expression in enumerate(axes):
            for number in dict.fromkeys(groups_in(expression)):
                members[number].append((name, axis))
                if storage_key(named[name]) not in reached:
                    unreached.add(number)
    result = {}
    for number, where in members.items():
        atom = numbering.atoms[number]
        parameter = any(isinstance(named[name], nn.Parameter) for name, _ in where)
        reason = atom.frozen or (None if parameter else "it is in buffers only")
        if number in unreached:
            reason = reason or "a tensor that the traced call never used has it"
        kind = _kind(number, atom.marks, [(name, tensors[name], axis) for name, axis in where])
        if reason is None and "softmax" in atom.marks:  # whose entries are whole matrices
            experts = any(len(tensors[name]) > 2 for name, _ in where)
            kind, reason = ("experts", None) if experts else (kind, _SOFTMAX)
        if any(text in (atom.frozen or "") for text in _POSITIONAL):
            kind = "free"
        result[number] = DimGroup(
            number=number,
            name="",
            kind=kind,
            size=atom.size,
            members=tuple(where),
            frozen=reason,
            normalized="normalized" in atom.marks,
        )
    return _name_groups(result)


_SOFTMAX = "a softmax or a maximum is taken over it"
_POSITIONAL = ("spatial", "of the input", "positions", "n-th", "runs along", "looked up")


_Where = Sequence[tuple[str, tuple[Expression, ...], int]]  # name, its axes, which one


def _kind(number: int, marks: set[str], where: _Where) -> str:
    """The kind of a group, from the operators that use it."""
    for kind in ("heads_per_group", "heads", "head_dim"):
        if kind in marks:
            return kind
    weights = [
        (name, axis)
        for name, axes, axis in where
        if len(axes) > 1 and set(groups_in(axes[axis])) == {number}
    ]
    produced_and_consumed = {axis for _, axis in weights} >= {0, 1}
    if "batch_norm" in marks or ("conv" in marks and "normalized" not in marks):
        return "channel"
    if "normalized" in marks:
        owners = {name.rpartition(".")[0].rpartition(".")[0] for name, _ in weights}
        merged = any(not isinstance(axes[1], Atom) for _, axes, axis in where if axis == 1)
        inner = produced_and_consumed and len(owners) == 1 and not merged  # a norm in an MLP
        return "mlp" if inner else "embed"
    if "grouped" in marks:
        return "mlp"
    if "conv_groups" in marks:
        return "ssm_inner"
    alone = all(
        set(groups_in(axes[axis])) == {number}
        and getattr(axes[axis], "joined", None) != "product"  # then no group is all of it
        for _, axes, axis in where
    )
    return "mlp" if alone and produced_and_consumed else "free"


def _name_groups(groups: dict[int, DimGroup]) -> dict[int, DimGroup]:
    """Unique names: the members' common module and the kind, the producer where that is shared."""
    short = {number: _join(_common(group), group.kind) for number, group in groups.items()}
    long = {
        number: _join(group.members[0][0].rpartition(".")[0], group.kind)
        for number, group in groups.items()
    }
    names: dict[str, int] = {}
    for number in groups:
        shared = sum(name == short[number] for name in short.values()) > 1
        base = name = long[number] if shared else short[number]
        copies = 1
        while name in names:
            copies += 1
            name = f"{base}.{copies}"
        names[name] = number
    return {number: replace(groups[number], name=name) for name, number in names.items()}


def _common(group: DimGroup) -> str:
    """The innermost module that has all members."""
    paths = [name.split(".")[:-1] for name, _ in group.members]
    shared = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def _join(path: str, kind: str) -> str:
    if path.rpartition(".")[2] == kind:
        return path
    return f"{path}.{kind}" if path else kind

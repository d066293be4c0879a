"""Integers that modules carry: which of them follow which dimensions.

A sliced module also needs smaller `num_heads`, `normalized_shape`, and so on. Equal numbers
collide (48 may be the hidden size and heads × head size at once), so an attribute's candidates
are the expressions of its size that occur where the module computes. Modules of `torch.nn` are
known by their parameters; for others the first choice is an axis of a leaf's own parameter, or
what a name suggests, and a search tries the rest until the subnet computes what the oracle says.
What the search settles is one decision per class and attribute: a pattern of kinds, or an axis
(`=weight.1`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from osf_supernet.graph.expressions import (
    Compound,
    Expression,
    groups_in,
    parts_of,
    pattern_of,
    size_of,
)
from osf_supernet.graph.graph import Graph
from osf_supernet.trace.tracing import module_path

_OWN = {  # torch.nn class name → attribute → axis of the weight
    "Linear": {"in_features": 1, "out_features": 0},
    "NonDynamicallyQuantizableLinear": {"in_features": 1, "out_features": 0},
    "Bilinear": {"in1_features": 1, "in2_features": 2, "out_features": 0},
    "Embedding": {"embedding_dim": 1},
    **{f"BatchNorm{n}d": {"num_features": 0} for n in (1, 2, 3)},
    "GroupNorm": {"num_channels": 0},
}
_NAMES = (  # what an attribute's name suggests, as a pattern of kinds
    (r"(num|n).*heads?$|^heads$|^nhead", r"heads"),
    (r"all_head|inner_dim|attn_dim|d_inner|inner", r"heads\*head_dim"),
    (r"head_(dim|size)|d_kv|key_value_proj|d_head", r"head_dim"),
    (r"inter|ffn|mlp|d_ff|hidden_features", r"mlp|ssm_inner"),
    (r"embed|hidden|d_model|dim|width|channels|features|shape", r"embed|channel"),
    (r"group", r"heads_per_group"),
    (r"rank|state", r"free"),
)


_WEIGHTS = (  # where a torch module keeps its weight, also under weight or spectral norm
    *("weight", "parametrizations.weight.original", "parametrizations.weight.original1"),
    *("weight_v", "weight_orig"),
)


@dataclass(frozen=True)
class Slot:
    """An integer attribute of one module: `entry` is its place in a tuple, or None."""

    path: str
    owner: str
    attribute: str
    entry: int | None
    value: int
    candidates: tuple[Expression, ...]
    places: tuple[tuple[str, Expression], ...] = ()  # a leaf's own axes of that size

    @property
    def name(self) -> str:
        """`path.attribute`."""
        return f"{self.path}.{self.attribute}" if self.path else self.attribute

    @property
    def class_key(self) -> Key:
        """Key of a decision for every module of the class."""
        return (self.owner, self.attribute, self.entry)

    @property
    def module_key(self) -> Key:
        """Key of a decision for this module alone."""
        return (f"/{self.path}", self.attribute, self.entry)


Key = tuple[str, str, int | None]
Decisions = dict[Key, str | None]


class AttributeTable:
    """Every integer attribute that might follow a dimension, and what was decided."""

    def __init__(self, module: nn.Module, graph: Graph) -> None:
        self.kinds = {number: group.kind for number, group in graph.groups.items()}
        self.slots = list(_slots(module, graph))
        self.known: dict[Slot, Expression] = {}
        self.decisions: Decisions = {}
        for slot in self.slots:
            owner = module.get_submodule(slot.path)
            known = _expression_in_torch(owner, slot, graph)
            if known is not None:
                self.known[slot] = known
            else:
                suggestion = self._suggestion(slot)
                if len(suggestion or "") >= len(self.decisions.get(slot.class_key) or ""):
                    self.decisions[slot.class_key] = suggestion
        for key in self.decisions:
            shared = self._shared_places(key)
            if shared:
                self.decisions[key] = shared[0]

    def values(self, sizes: Mapping[int, int]) -> dict[str, Any]:
        """`path.attribute` → value for the given group sizes, changed ones only."""
        found: dict[str, dict[int | None, int]] = {}
        changed: set[str] = set()
        for slot in self.slots:
            expression = self._choose(slot)
            if expression is not None:
                size = size_of(expression, sizes)
                found.setdefault(slot.name, {})[slot.entry] = size
                changed |= {slot.name} if size != slot.value else set()
        return {name: entries for name, entries in found.items() if name in changed}

    def dependent_integers(self) -> dict[str, list[int]]:
        """`path.attribute` → the integers in it that follow a dimension, at full size."""
        found: dict[str, list[int]] = {}
        for slot in self.slots:
            if self._choose(slot) is not None:
                found.setdefault(slot.name, []).append(slot.value)
        return found

    def alternatives(
        self, groups: set[int], limit: int = 60, *, single: bool = False
    ) -> Iterator[Decisions]:
        """Other decisions about attributes that might follow these groups, fewest changes first.

        Decisions are for all modules of a class alike, or, with `single`, for one module.
        """
        options: dict[Key, list[str | None]] = {}
        current: Decisions = {}
        begin = dict(self.decisions)  # whoever tries them may set others meanwhile
        for slot in self.slots:
            if slot in self.known:
                continue
            affected = [e for e in slot.candidates if groups & set(groups_in(e))]
            patterns = [place for place, e in slot.places if groups & set(groups_in(e))]
            patterns += [pattern_of(e, self.kinds) for e in affected]
            if patterns:
                key = slot.module_key if single else slot.class_key
                current[key] = self.decisions.get(slot.module_key, self.decisions[slot.class_key])
                listed = options.setdefault(key, [None])
                listed += [p for p in patterns if p not in listed]
        changes = [
            (key, option)
            for key, listed in options.items()
            for option in listed
            if option != current[key]
        ]
        count = 0
        for several in (1, 2, 3):
            for chosen in itertools.combinations(changes, several):
                if len({key for key, _ in chosen}) == several:
                    yield begin | dict(chosen)
                    count += 1
                    if count >= limit:
                        return

    def _choose(self, slot: Slot) -> Expression | None:
        if slot in self.known:
            return self.known[slot]
        wanted = self.decisions.get(slot.module_key, self.decisions[slot.class_key])
        if wanted is None:
            return None
        if wanted.startswith("="):
            return dict(slot.places).get(wanted)
        for pattern in _reduce_pattern(wanted):
            matching = [e for e in slot.candidates if pattern_of(e, self.kinds) == pattern]
            if matching:
                return matching[0] if len(matching) == 1 else None
        return None

    def _shared_places(self, key: Key) -> list[str]:
        """The parameter axes that have the attribute's size in every module of a class."""
        places = [dict(slot.places) for slot in self.slots if slot.class_key == key]
        return [place for place in places[0] if all(place in other for other in places)]

    def _suggestion(self, slot: Slot) -> str | None:
        """The pattern that the attribute's name suggests, if a candidate has it."""
        patterns = [pattern_of(e, self.kinds) for e in slot.candidates]
        for name, wanted in _NAMES:
            if re.search(name, slot.attribute):
                return next((p for p in patterns if re.fullmatch(wanted, p)), None)
        return None


def _reduce_pattern(pattern: str) -> list[str]:
    """A product's pattern, then what is left of it where one of its factors is 1."""
    factors = pattern.split("*")
    if len(factors) == 1 or "(" in pattern:
        return [pattern]
    return [pattern, *("*".join(factors[:i] + factors[i + 1 :]) for i in range(len(factors)))]


def set_entries(old: Any, entries: Mapping[int | None, int]) -> Any:
    """An attribute's value with some integers replaced; tuples keep their type."""
    if None in entries:
        return entries[None]
    items = [entries.get(position, value) for position, value in enumerate(old)]
    return items if isinstance(old, list) else tuple(items)


def _slots(module: nn.Module, graph: Graph) -> Iterator[Slot]:
    """Attributes with at least one candidate expression that has an elastic group."""
    local = _local_expressions(graph)
    elastic = {group.number for group in graph.elastic()}
    for path, owner in module.named_modules():
        integers = list(integers_of(owner))
        if not integers:
            continue
        inside = {
            e
            for place, found in local.items()
            if not path or place == path or place.startswith(f"{path}.")
            for e in found
        }
        for attribute, entry, value in integers:
            candidates = tuple(
                sorted(
                    (e for e in inside if e.size == value and elastic & set(groups_in(e))),
                    key=repr,
                )
            )
            if candidates:
                places = tuple((p, e) for p, e in _axes_of(owner, path, graph) if e.size == value)
                name = type(owner).__qualname__
                yield Slot(path, name, attribute, entry, value, candidates, places)


def _axes_of(owner: nn.Module, path: str, graph: Graph) -> Iterator[tuple[str, Expression]]:
    """The axes of a leaf module's own parameters, by place."""
    if not owner._modules:
        for name in owner._parameters:
            tensor = graph.tensors.get(f"{path}.{name}" if path else name, ())
            for axis, expression in enumerate(tensor):
                yield f"={name}.{axis}", expression


def integers_of(owner: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    """The integers among a module's own plain attributes."""
    for name, value in vars(owner).items():
        if name.startswith("_") or isinstance(value, bool):
            continue
        if isinstance(value, int):
            yield name, None, value
        elif isinstance(value, tuple | list) and 0 < len(value) <= 4:
            integers = all(isinstance(v, int) and not isinstance(v, bool) for v in value)
            for entry, item in enumerate(value if integers else ()):
                yield name, entry, item


def _local_expressions(graph: Graph) -> dict[str, set[Expression]]:
    """Module path → the expressions, and parts of them, that occur in its own computation."""
    found: dict[str, set[Expression]] = {}
    for name, axes in graph.tensors.items():
        for axis in axes:
            found.setdefault(name.rpartition(".")[0], set()).update(parts_of(axis))
    for node in graph.trace.nodes:
        if node.op != "call_function":
            continue
        place = found.setdefault(module_path(node), set())
        for expression in pytree.tree_leaves(
            [graph.values[n] for n in (node, *node.all_input_nodes)]
        ):
            if expression not in place:
                place.update(parts_of(expression))
    return found


def _expression_in_torch(owner: nn.Module, slot: Slot, graph: Graph) -> Expression | None:
    """The expression of an attribute of a `torch.nn` module, from its own parameters."""
    if not type(owner).__module__.startswith("torch.nn."):
        return None
    prefix = f"{slot.path}." if slot.path else ""
    stored = (f"{prefix}{name}" for name in _WEIGHTS)
    found = [(name, graph.tensors[name]) for name in stored if name in graph.tensors]
    weight = next((axes for name, axes in found if len(axes) > 1 or name.endswith("weight")), None)
    if weight is None:
        return None
    name = type(owner).__name__.removeprefix("Parametrized")
    if slot.attribute == "normalized_shape" and slot.entry is not None:
        return weight[slot.entry]
    if name.startswith("Conv"):
        return _expression_in_convolution(owner, slot, weight)
    axis = _OWN.get(name, {}).get(slot.attribute)
    return None if axis is None else weight[axis]


def _expression_in_convolution(
    owner: Any, slot: Slot, weight: tuple[Expression, ...]
) -> Expression | None:
    """The expression of an integer of a convolution.

    Weights are (out, in / groups, …), of a transposed one (in, out / groups, …).
    """
    whole, part = ("out_channels", "in_channels")
    if owner.transposed:
        whole, part = part, whole
    if slot.attribute == whole:
        return weight[0]
    groups = _first_factors(weight[0], owner.groups)
    if slot.attribute == "groups":
        return groups
    if slot.attribute != part:
        return None
    if owner.groups == 1 or groups is None:
        return weight[1] if owner.groups == 1 else None
    factors = [f for e in (groups, weight[1]) for f in _factors_of(e) if f.size != 1]
    return factors[0] if len(factors) == 1 else Compound("product", tuple(factors))


def _first_factors(expression: Expression, size: int) -> Expression | None:
    """The first factors of an axis whose product has a size."""
    factors = _factors_of(expression)
    for count in range(1, len(factors) + 1):
        first = factors[:count]
        if math.prod(factor.size for factor in first) == size:
            return first[0] if count == 1 else Compound("product", tuple(first))
    return None


def _factors_of(expression: Expression) -> list[Expression]:
    if isinstance(expression, Compound) and expression.joined == "product":
        return list(expression.parts)
    return [expression]

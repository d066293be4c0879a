"""From a config (sizes by name) to what is kept: for the module, the oracle and the counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import nn

from osf_supernet.attributes import AttributeTable, set_entries
from osf_supernet.counting import storage_key
from osf_supernet.expressions import Expression, groups_in, indices_of, size_of
from osf_supernet.graph import Graph, named_tensors
from osf_supernet.surgery import Surgery

Config = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One subnet.

    Attributes:
        surgery: what to do to the module.
        kept: group number → kept indices.
        dropped: list path → positions of left-out blocks, for the oracle.
    """

    surgery: Surgery
    kept: dict[int, Sequence[int]]
    dropped: dict[str, tuple[int, ...]]


class Planner:
    """Turns configs into plans and counts, for one graph and one set of attribute decisions.

    Attributes:
        depth_order: list path → its units' indices, the most important first.
    """

    def __init__(self, module: nn.Module, graph: Graph, table: AttributeTable) -> None:
        self.module = module
        self.graph = graph
        self.table = table
        self.by_name = {group.name: group for group in graph.groups.values()}
        self.depth_order = {path: list(range(len(u))) for path, u in graph.units.items()}

    def full_sizes(self) -> Config:
        """Every elastic group and depth list at its full size."""
        sizes = {group.name: group.size for group in self.graph.elastic()}
        return sizes | {f"{path}.depth": len(units) for path, units in self.graph.units.items()}

    def plan(self, config: Mapping[str, int]) -> Plan:
        """What a config keeps; names that are missing stay whole."""
        sizes = self.sizes(config)
        kept = {number: range(size) for number, size in sizes.items()}
        items, dropped, gone = self._depth(config)
        keep = {}
        for name, axes in self.graph.tensors.items():
            if any(name.startswith(f"{path}.") for path in gone):
                continue
            if any(group in kept for axis in axes for group in groups_in(axis)):
                keep[name] = tuple(self._keep(axis, kept) for axis in axes)
        surgery = Surgery(keep=keep, attributes=self._attributes(sizes, gone), items=items)
        return Plan(surgery=surgery, kept=dict(kept), dropped=dropped)

    def sizes(self, config: Mapping[str, int]) -> dict[int, int]:
        """Group number → size, for groups that are not whole."""
        full = self.full_sizes()
        for name in config:
            if name not in full:
                raise KeyError(self._unknown(name, full))
        result: dict[int, int] = {}
        given: Mapping[str, Any] = config  # a file's numbers may be of any type
        for name, size in given.items():
            least = self.graph.least.get(name.removesuffix(".depth"), 1)
            if not (isinstance(size, Integral) and least <= int(size) <= full[name]):
                raise ValueError(f"{name} must be {least}..{full[name]}, got {size}")
            if name in self.by_name and int(size) < full[name]:
                result[self.by_name[name].number] = int(size)
        return result

    def _unknown(self, name: str, full: Config) -> str:
        group = self.by_name.get(name)
        if group is not None:
            return f"{name} is frozen: {group.frozen}"
        nearest = sorted(full, key=lambda known: -_overlap(known, name))[:3]
        return f"no group is called {name!r}; near names: {', '.join(nearest)}"

    def _keep(self, axis: Expression, kept: Mapping[int, Sequence[int]]) -> Sequence[int] | None:
        return indices_of(axis, kept) if any(g in kept for g in groups_in(axis)) else None

    def _depth(
        self, config: Mapping[str, int]
    ) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], list[str]]:
        items: dict[str, tuple[int, ...]] = {}
        dropped: dict[str, tuple[int, ...]] = {}
        gone: list[str] = []
        for path, units in self.graph.units.items():
            count = config.get(f"{path}.depth", len(units))
            out = [units[index] for index in self.depth_order[path][count:]]
            if not out:
                continue
            positions = {unit.position for unit in out}
            owner: Any = self.module.get_submodule(path)
            items[path] = tuple(i for i in range(len(owner)) if i not in positions)
            dropped[path] = tuple(sorted(positions))
            gone += [unit.path for unit in out]
        return items, dropped, gone

    def _attributes(self, sizes: Mapping[int, int], gone: list[str]) -> dict[str, Any]:
        result = {}
        for name, entries in self.table.values(sizes).items():
            path, _, attribute = name.rpartition(".")
            if any(path == p or path.startswith(f"{p}.") for p in gone):
                continue
            old = vars(self.module.get_submodule(path))[attribute]
            result[name] = set_entries(old, entries)
        return result


def _overlap(one: str, two: str) -> int:
    return len(set(one.split(".")) & set(two.split(".")))


@dataclass(frozen=True)
class _Term:
    """`factor` × the sizes of axes × whether the blocks around it are there (see `Cost`)."""

    axes: tuple[Expression, ...]
    blocks: tuple[tuple[str, int], ...]
    summed: tuple[Expression, ...] = ()


class Counts:
    """Parameters and floating point operations of subnets in closed form."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        graph = planner.graph
        self._parameters = Counter[_Term]()
        self._operations = Counter[_Term]()
        named = named_tensors(planner.module)
        names: dict[Any, list[str]] = {}
        for name, tensor in named.items():
            if isinstance(tensor, nn.Parameter):
                names.setdefault(storage_key(tensor), []).append(name)
        for tied in names.values():
            blocks = [self._block_of_name(name) for name in tied]
            common = blocks[0] if len(set(blocks)) == 1 else ()
            self._add(self._parameters, graph.tensors[tied[0]], common, 1)
        for cost in graph.costs:
            around = self._blocks_of_node(cost.node)
            self._add(self._operations, cost.axes, around, cost.factor, cost.summed)

    def parameters(self, config: Mapping[str, Any]) -> Any:
        """Parameters with these sizes (ints, or tensors of many candidates at once)."""
        return self._evaluate(self._parameters, config)

    def operations(self, config: Mapping[str, Any]) -> Any:
        """Floating point operations with these sizes, at the traced input shapes."""
        return self._evaluate(self._operations, config)

    def _block_of_name(self, name: str) -> tuple[tuple[str, int], ...]:
        return tuple(
            (path, index)
            for path, units in self.planner.graph.units.items()
            for index, unit in enumerate(units)
            if name.startswith(f"{unit.path}.")
        )

    def _blocks_of_node(self, node: str) -> tuple[tuple[str, int], ...]:
        return tuple(
            (path, index)
            for path, units in self.planner.graph.units.items()
            for index, unit in enumerate(units)
            if node in unit.region
        )

    def _add(
        self,
        counter: Counter[_Term],
        axes: Sequence[Expression],
        blocks: tuple[tuple[str, int], ...],
        factor: int,
        summed: tuple[Expression, ...] = (),
    ) -> None:
        elastic = {group.number for group in self.planner.graph.elastic()}
        changing = []
        for axis in axes:
            if elastic & set(groups_in(axis)):
                changing.append(axis)
            else:
                factor *= axis.size
        counter[_Term(tuple(sorted(changing, key=repr)), blocks, summed)] += factor

    def _evaluate(self, counter: Counter[_Term], config: Mapping[str, Any]) -> Any:
        planner = self.planner
        sizes = {planner.by_name[n].number: v for n, v in config.items() if n in planner.by_name}
        total: Any = 0
        cache: dict[Expression, Any] = {}
        for term, factor in counter.items():
            value: Any = factor
            for axis in term.axes:
                if axis not in cache:
                    cache[axis] = size_of(axis, sizes)
                value = value * cache[axis]
            if term.summed:
                value = value * (math.prod(size_of(axis, sizes) for axis in term.summed) > 1)
            for path, index in term.blocks:
                rank = planner.depth_order[path].index(index)
                full = len(planner.graph.units[path])
                value = value * (config.get(f"{path}.depth", full) > rank)
            total = total + value
        return total

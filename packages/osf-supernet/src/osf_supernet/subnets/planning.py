"""From a config (sizes by name) to what is kept, for the module and for the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from osf_supernet.graph.expressions import groups_in, indices_of
from osf_supernet.graph.graph import Graph
from osf_supernet.subnets.integer_attributes import AttributeTable, set_entries
from osf_supernet.subnets.surgery import Surgery

Config = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One subnet.

    Attributes:
        surgery: what is cut from the module.
        kept: group number → kept indices.
        dropped: list path → positions of left-out blocks, for the oracle.
    """

    surgery: Surgery
    kept: dict[int, Sequence[int]]
    dropped: dict[str, tuple[int, ...]]


class Planner:
    """Turns configs into plans, for one graph and one set of attribute decisions.

    Attributes:
        depth_order: list path → its units' indices, the most important first.
        full_sizes: every elastic group and depth list → its full size.
    """

    def __init__(self, module: nn.Module, graph: Graph, table: AttributeTable) -> None:
        self.module = module
        self.graph = graph
        self.table = table
        self.by_name = {group.name: group for group in graph.groups.values()}
        self.depth_order = {path: list(range(len(u))) for path, u in graph.units.items()}
        sizes = {group.name: group.size for group in graph.elastic()}
        self.full_sizes = sizes | {
            f"{path}.depth": len(units) for path, units in graph.units.items()
        }
        self._paths: dict[nn.Module, list[str]] = {}  # a module may have several
        for path, child in module.named_modules(remove_duplicate=False):
            self._paths.setdefault(child, []).append(path)

    def plan(self, config: Mapping[str, int]) -> Plan:
        """What a config keeps; names that are missing stay whole."""
        self.check(config)
        sizes = {
            self.by_name[name].number: int(size)
            for name, size in config.items()
            if name in self.by_name and int(size) < self.full_sizes[name]
        }
        kept: dict[int, Sequence[int]] = {n: range(size) for n, size in sizes.items()}
        items, dropped, gone = self._depth(config)
        keep = {}
        for name, axes in self.graph.tensors.items():
            if _inside(name, gone):
                continue
            cut = tuple(
                indices_of(axis, kept) if any(group in kept for group in groups_in(axis)) else None
                for axis in axes
            )
            if any(indices is not None for indices in cut):
                keep[name] = cut
        surgery = Surgery(keep=keep, attributes=self._attributes(sizes, gone), items=items)
        return Plan(surgery=surgery, kept=kept, dropped=dropped)

    def check(self, config: Mapping[str, Any], *, many: bool = False) -> None:
        """Refuse unknown names and sizes out of range; with `many`, sizes may be tensors.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
        """
        for name, size in config.items():
            if name not in self.full_sizes:
                raise KeyError(self._explain_unknown(name))
            least = self.graph.least.get(name.removesuffix(".depth"), 1)
            full = self.full_sizes[name]
            if many and isinstance(size, Tensor) and not size.is_floating_point():
                fits = bool(((least <= size) & (size <= full)).all())
            else:
                fits = isinstance(size, Integral) and least <= int(size) <= full
            if not fits:
                raise ValueError(f"{name} must be {least}..{full}, got {size}")

    def _explain_unknown(self, name: str) -> str:
        group = self.by_name.get(name)
        if group is not None:
            return f"{name} is frozen: {group.frozen}"
        nearest = sorted(self.full_sizes, key=lambda known: -_overlap(known, name))[:3]
        return f"no group is called {name!r}; near names: {', '.join(nearest)}"

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
            owner = self.module.get_submodule(path)
            if not all(_inside(f"{other}.", gone) for other in self._paths[owner]):
                result[name] = set_entries(vars(owner)[attribute], entries)
        return result


def _inside(name: str, paths: Sequence[str]) -> bool:
    """Whether a dotted name begins with one of the paths."""
    return any(name.startswith(f"{path}.") for path in paths)


def _overlap(one: str, two: str) -> int:
    return len(set(one.split(".")) & set(two.split(".")))

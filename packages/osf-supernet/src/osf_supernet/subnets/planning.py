"""From a config (sizes by name) to what is kept, for the module and for the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        traced: whether it runs as the traced graph, since the class cannot express it.
        gone: paths of the left-out blocks.
    """

    surgery: Surgery
    kept: dict[int, Sequence[int]]
    dropped: dict[str, tuple[int, ...]]
    traced: bool = False
    gone: tuple[str, ...] = ()


class Planner:
    """Turns configs into plans, for one graph and one set of attribute decisions.

    Attributes:
        depth_order: list path → its units' indices, the most important first.
        complete: what a plan that runs as the traced graph is given (its program).
        full_sizes: every elastic group, depth list and block → its full size.
        blocks: name of a block in configs → (list path, index of the unit).
    """

    def __init__(self, module: nn.Module, graph: Graph, table: AttributeTable) -> None:
        self.module = module
        self.complete: Callable[[Plan], Plan] = lambda plan: plan
        self.graph = graph
        self.table = table
        self.by_name = {group.name: group for group in graph.groups.values()}
        self.depth_order = {path: list(range(len(u))) for path, u in graph.units.items()}
        sizes = {group.name: group.size for group in graph.elastic()}
        self.blocks = {
            block_name(unit.path): (path, index)
            for path, units in graph.units.items()
            for index, unit in enumerate(units)
        }
        depths = {f"{path}.depth": len(units) for path, units in graph.units.items()}
        self.full_sizes = sizes | depths | dict.fromkeys(self.blocks, 1)
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
        attributes = self._attributes(sizes, gone)
        traced = self._needs_graph(sizes, dropped)
        surgery = Surgery(keep=keep, attributes=attributes, items={} if traced else items)
        plan = Plan(surgery=surgery, kept=kept, dropped=dropped, traced=traced, gone=tuple(gone))
        return self.complete(plan) if traced else plan

    def _needs_graph(self, sizes: Mapping[int, int], dropped: Mapping[str, Any]) -> bool:
        """Whether a size or a left-out block is one that the class cannot express."""
        names = {self.graph.groups[number].name for number in sizes}
        names |= {f"{path}.depth" for path in dropped}
        return not names.isdisjoint(self.graph.traced_only)

    def left_out(self, config: Mapping[str, int]) -> dict[str, list[int]]:
        """List path → indices of the units that a config leaves out, by its depth or one by one.

        Raises:
            ValueError: fewer are kept than the list needs.
        """
        result: dict[str, list[int]] = {}
        for path, units in self.graph.units.items():
            gone = set(self.depth_order[path][config.get(f"{path}.depth", len(units)) :])
            gone |= {i for i, u in enumerate(units) if config.get(block_name(u.path), 1) == 0}
            least = self.graph.least.get(path, 1)
            if len(units) - len(gone) < least:
                raise ValueError(f"{path} must keep at least {least} block, got none")
            if gone:
                result[path] = sorted(gone)
        return result

    def canonical(self, config: Mapping[str, int]) -> Config:
        """Another config of the same subnet: what cannot be seen in it has its full size.

        Sizes inside left-out blocks make no difference, and neither does the way in which
        blocks are left out.
        """
        gone = self.left_out(config)
        paths = [self.graph.units[path][index].path for path, out in gone.items() for index in out]
        result = {
            name: int(size)
            for name, size in config.items()
            if name in self.by_name
            and int(size) < self.full_sizes[name]
            and not all(_inside(tensor, paths) for tensor, _ in self.by_name[name].members)
        }
        return result | {block_name(path): 0 for path in paths}

    def check(self, config: Mapping[str, Any], *, many: bool = False) -> None:
        """Refuse unknown names and sizes out of range; with `many`, sizes may be tensors.

        Raises:
            KeyError: a name is no elastic group's or depth list's.
            ValueError: a size is not one it can have.
        """
        for name, size in config.items():
            if name not in self.full_sizes:
                raise KeyError(self._explain_unknown(name))
            least = 0 if name in self.blocks else self._least(name)
            full = self.full_sizes[name]
            if many and isinstance(size, Tensor) and not size.is_floating_point():
                fits = bool(((least <= size) & (size <= full)).all())
            else:
                fits = isinstance(size, Integral) and least <= int(size) <= full
            if not fits:
                raise ValueError(f"{name} must be {least}..{full}, got {size}")

    def _least(self, name: str) -> int:
        return self.graph.least.get(name.removesuffix(".depth"), 1)

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
        for path, indices in self.left_out(config).items():
            out = [self.graph.units[path][index] for index in indices]
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


def block_name(path: str) -> str:
    """The name that a block has in configs: 1 where it is kept, 0 where it is left out."""
    return f"{path}.block"


def _inside(name: str, paths: Sequence[str]) -> bool:
    """Whether a dotted name begins with one of the paths."""
    return any(name.startswith(f"{path}.") for path in paths)


def _overlap(one: str, two: str) -> int:
    return len(set(one.split(".")) & set(two.split(".")))

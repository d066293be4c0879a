"""Parameters and floating point operations of subnets in closed form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from osf_supernet.counting import storage_key
from osf_supernet.graph.expressions import Expression, groups_in, size_of
from osf_supernet.graph.graph import named_tensors
from osf_supernet.subnets.planning import Planner, block_name

_Blocks = tuple[tuple[str, int], ...]  # (list path, index of the unit), each around the next


@dataclass(frozen=True)
class _Term:
    """Sizes that are multiplied, times 1 where the term is present, else 0.

    Attributes:
        axes: whose sizes are multiplied.
        places: the blocks around each occurrence; it is present if all of any one's are kept.
        summed: axes of which at least one must be above 1, as in `flops.Cost`.
    """

    axes: tuple[Expression, ...]
    places: tuple[_Blocks, ...]
    summed: tuple[Expression, ...] = ()


class Counts:
    """Parameters and floating point operations of subnets in closed form."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        graph = planner.graph
        self._parameters = Counter[_Term]()
        self._operations = Counter[_Term]()
        blocks = [
            ((path, index), unit)
            for path, units in graph.units.items()
            for index, unit in enumerate(units)
        ]
        names: dict[Any, list[str]] = {}
        for name, tensor in named_tensors(planner.module).items():
            if isinstance(tensor, nn.Parameter):
                names.setdefault(storage_key(tensor), []).append(name)
        for tied in names.values():
            places = {
                tuple(place for place, unit in blocks if name.startswith(f"{unit.path}."))
                for name in tied
            }
            self._add(self._parameters, graph.tensors[tied[0]], tuple(sorted(places)), 1)
        for cost in graph.costs:
            around = tuple(place for place, unit in blocks if cost.node in unit.region)
            self._add(self._operations, cost.axes, (around,), cost.factor, cost.summed)

    def parameters(self, config: Mapping[str, Any]) -> Any:
        """Parameters with these sizes (ints, or tensors of many candidates at once)."""
        return self._evaluate(self._parameters, config)

    def operations(self, config: Mapping[str, Any]) -> Any:
        """Floating point operations with these sizes, at the traced input shapes."""
        return self._evaluate(self._operations, config)

    def _add(
        self,
        counter: Counter[_Term],
        axes: Sequence[Expression],
        places: tuple[_Blocks, ...],
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
        counter[_Term(tuple(sorted(changing, key=repr)), places, summed)] += factor

    def _evaluate(self, counter: Counter[_Term], config: Mapping[str, Any]) -> Any:
        planner = self.planner
        planner.check(config, many=True)
        sizes = {planner.by_name[n].number: v for n, v in config.items() if n in planner.by_name}
        total: Any = 0
        cache: dict[Expression, Any] = {}
        present: dict[tuple[_Blocks, ...], Any] = {}
        for term, factor in counter.items():
            value: Any = factor
            for axis in term.axes:
                if axis not in cache:
                    cache[axis] = size_of(axis, sizes)
                value = value * cache[axis]
            if term.summed:
                value = value * (math.prod(size_of(axis, sizes) for axis in term.summed) > 1)
            if term.places not in present:
                present[term.places] = self._presence(term.places, config)
            total = total + value * present[term.places]
        return total

    def _presence(self, places: tuple[_Blocks, ...], config: Mapping[str, Any]) -> Any:
        """1 where all the blocks around any of the places are there, else 0."""
        nowhere: Any = 1
        for blocks in places:
            there: Any = 1
            for path, index in blocks:
                depth = config.get(f"{path}.depth", len(self.planner.graph.units[path]))
                there = there * (depth > self.planner.depth_order[path].index(index))
                there = there * config.get(
                    block_name(self.planner.graph.units[path][index].path), 1
                )
            nowhere = nowhere * (1 - there)
        return 1 - nowhere

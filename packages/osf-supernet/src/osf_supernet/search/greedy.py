"""The greedy path: from the largest subnet down, each step what loses the least per cost saved.

A step makes one group smaller, by one size or several, or leaves a block out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from osf_supernet.search.sensitivity import Sensitivity
from osf_supernet.subnets.bounds import Bounds
from osf_supernet.subnets.planning import Config
from osf_supernet.supernet import Supernet

_EXITS = 3  # ways into the bounds that are followed up
Cost = Callable[[Mapping[str, Any]], Any]


class _Step(NamedTuple):
    """One change of a config, and what it loses (or gains, on the way back)."""

    name: str
    size: int
    worth: float


class GreedyPath:
    """The greedy path of a supernet for one cost.

    Attributes:
        net: The supernet.
        name: The cost's name in bounds.
        cost: Config → cost.
        sensitivity: What each step loses.
    """

    def __init__(self, net: Supernet, name: str, cost: Cost, sensitivity: Sensitivity) -> None:
        self.net, self.name, self.cost, self.sensitivity = net, name, cost, sensitivity

    def configs(self) -> list[Config]:
        """From the largest to the smallest."""
        config, path = dict(self.net.largest), [dict(self.net.largest)]
        while steps := self._steps(config, smaller=True):
            step = self._best(config, steps, smaller=True)
            config = config | {step.name: step.size}
            path.append(config)
        smallest = self.net.smallest
        if self.net.canonical(config) == self.net.canonical(smallest):
            path[-1] = smallest
        return path

    def fit(self, bounds: Bounds) -> Config:
        """The config within the bounds that loses the least, near the path.

        A step may be much larger than what is left to save. So from each config of the path that
        is too large the steps that reach the bounds at once are looked at too, and what loses
        least is made larger again where the bounds allow it.
        """
        found: list[tuple[float, Config]] = []
        for config in self.configs():
            if bounds.fit(config):
                found.append((self.sensitivity.of(config), config))
                break
            steps = self._within(config, self._steps(config, smaller=True), bounds)
            for step in sorted(steps, key=lambda step: step.worth)[:_EXITS]:
                reached = config | {step.name: step.size}
                found.append((self.sensitivity.of(reached), reached))
        found.sort(key=lambda pair: pair[0])
        filled = [self.fill(config, bounds) for _, config in found[:_EXITS]]
        return min(filled, key=self.sensitivity.of)

    def fill(self, config: Config, bounds: Bounds) -> Config:
        """The config with sizes made larger, the most valuable per cost first, while it fits."""
        while True:
            steps = self._within(config, self._steps(config, smaller=False), bounds)
            if not steps:
                return config
            step = self._best(config, steps, smaller=False)
            config = config | {step.name: step.size}

    def _within(self, config: Config, steps: list[_Step], bounds: Bounds) -> list[_Step]:
        """The steps that keep to the bounds."""
        limit = bounds.limits.get(self.name, math.inf)
        costs = self._costs(config, steps) if steps else []
        cheap = [step for step, cost in zip(steps, costs, strict=True) if cost <= limit]
        others = [name for name in bounds.limits if name != self.name]
        if not others:
            return cheap
        return [step for step in cheap if bounds.fit(config | {step.name: step.size})]

    def _best(self, config: Config, steps: Sequence[_Step], *, smaller: bool) -> _Step:
        changed = [abs(cost - self.cost(config)) for cost in self._costs(config, steps)]
        sign = 1 if smaller else -1

        def key(pair: tuple[_Step, float]) -> tuple[float, str]:
            step, cost = pair
            return sign * (step.worth / cost if cost > 0 else sign * math.inf), step.name

        return min(zip(steps, changed, strict=True), key=key)[0]

    def _costs(self, config: Config, steps: Sequence[_Step]) -> list[float]:
        """The cost of each changed config, all at once where the cost takes tensors."""
        names = {**config, **{step.name: 1 for step in steps}}
        many = {name: torch.full((len(steps),), int(config.get(name, 1))) for name in names}
        for row, step in enumerate(steps):
            many[step.name][row] = step.size
        try:
            found = torch.as_tensor(self.cost(many), dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):  # milliseconds are looked up one by one
            return [float(self.cost(config | {step.name: step.size})) for step in steps]
        return [float(x) for x in found.expand(len(steps))]

    def _steps(self, config: Config, *, smaller: bool) -> list[_Step]:
        """Every other size of every choice that can be seen, and what it loses or gives back."""
        now, unseen = self.sensitivity.of(config), self.sensitivity.unseen(config)
        steps = []
        for name, sizes in self._sizes(config, smaller=smaller).items():
            if name in unseen:
                continue
            here = self.sensitivity.at(name, config.get(name, 1))
            moves_blocks = name in self.sensitivity.blocks or name.endswith(".depth")
            for size in sizes:
                change = self.sensitivity.at(name, size) - here
                if moves_blocks:  # groups inside count no more, or again
                    change = self.sensitivity.of(config | {name: size}) - now
                steps.append(_Step(name, size, max(0.0, change if smaller else -change)))
        return steps

    def _sizes(self, config: Config, *, smaller: bool) -> dict[str, list[int]]:
        """Choice → the sizes that it can be changed to."""
        found: dict[str, list[int]] = {}
        for name in self.sensitivity.curves:
            values, size = self.net.choices[name], config[name]
            found[name] = [v for v in values if (v < size if smaller else v > size)]
        out = self.net.left_out(config)
        for path, names in self.net.blocks.items():
            least = self.net.choices.get(f"{path}.depth", (len(names),))[0]
            kept = len(names) - len(out.get(path, ()))
            for name in names:
                is_there = config.get(name, 1) == 1
                if name in self.sensitivity.blocks and is_there == smaller:
                    found[name] = [0 if smaller else 1] if kept > least or not smaller else []
        return found

"""Bounds on what a subnet may cost, and random subnets that keep to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from osf_supernet.subnets.planning import Config

Costs = Mapping[str, Callable[[Config], Any]]  # name of a cost → that cost of a config
Choices = Mapping[str, tuple[int, ...]]  # group or depth list → its sizes, ascending


class Bounds:
    """The largest values that costs of a subnet may have.

    Attributes:
        limits: name of a cost → its largest value.
    """

    def __init__(self, costs: Costs, limits: Mapping[str, float | None]) -> None:
        """Args:
        costs: What each cost of a config is.
        limits: Name of a cost → bound; None is no bound.
        """
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}
        self._costs = {name: costs[name] for name in self.limits}

    def fit(self, config: Config) -> bool:
        """Whether a subnet keeps to all bounds."""
        return all(self._costs[name](config) <= limit for name, limit in self.limits.items())

    def require_fit(self, smallest: Config) -> None:
        """Refuse bounds that even the smallest subnet exceeds.

        Raises:
            ValueError: It does.
        """
        for name, limit in self.limits.items():
            least = self._costs[name](smallest)
            if least > limit:
                raise ValueError(
                    f"the smallest config has {name} {least:,.10g}, more than {limit:,.10g}; "
                    "raise the bound or widen the space"
                )

    def shrink(self, config: Config, choices: Choices, generator: random.Random) -> Config:
        """The config with random choices made smaller until it fits."""
        config = dict(config)
        while not self.fit(config):
            larger = [name for name, values in choices.items() if config[name] > values[0]]
            name = generator.choice(larger)
            values = choices[name]
            config[name] = values[values.index(config[name]) - 1]
        return config


def resolve_share(bound: float | None, cost: Callable[[Config], Any]) -> float | None:
    """A bound as a number: a float of at most 1 is a fraction of the full model's cost."""
    return bound * cost({}) if isinstance(bound, float) and bound <= 1 else bound


def sample_config(choices: Choices, generator: random.Random) -> Config:
    """A random size for every choice."""
    return {name: generator.choice(values) for name, values in choices.items()}

"""Measured milliseconds of subnets: a table of differences, with interpolation.

The largest subnet is timed, then each kind of group at its sizes and each kind of block left
out. A subnet's prediction is the largest's time minus the differences of what it lacks; sizes
between measured ones are interpolated. Groups inside a left-out block count nothing.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from osf_supernet.subnets.planning import Config
from osf_supernet.subnets.probing import cluster_groups
from osf_supernet.supernet import Supernet
from osf_supernet.trace.tracing import call_model, evaluation_mode

Curve = tuple[tuple[int, float], ...]  # (size, milliseconds saved), sizes ascending


class LatencyTable:
    """Predicted milliseconds of any subnet on this machine.

    Attributes:
        largest_ms: of the largest subnet.
        saved: group name → milliseconds saved at some of its sizes.
        block_ms: path of a list → milliseconds of each of its blocks, by index.
    """

    def __init__(
        self,
        net: Supernet,
        largest_ms: float,
        saved: Mapping[str, Curve],
        block_ms: Mapping[str, Sequence[float]],
    ) -> None:
        self._net = net
        self.largest_ms, self.saved, self.block_ms = largest_ms, dict(saved), dict(block_ms)

    @classmethod
    def measure(
        cls, net: Supernet, inputs: Any = None, *, points: int = 3, repeats: int = 5
    ) -> LatencyTable:
        """Time subnets on this machine.

        Args:
            net: the supernet; it runs on whatever device its model is on.
            inputs: what to call it with; the traced example by default.
            points: sizes per kind of group, the smallest among them.
            repeats: runs per size, of which the median counts.
        """
        inputs = net.inputs if inputs is None else inputs

        def time_config(config: Config) -> float:
            return milliseconds(net, config, inputs, repeats)

        largest = time_config(net.largest)
        saved: dict[str, Curve] = {}
        elastic = [g for g in net.graph.elastic() if len(net.choices.get(g.name, ())) > 1]
        for alike in cluster_groups(net.graph):
            names = [g.name for g in alike if g in elastic]
            for sizes in {net.choices[name] for name in names}:
                same = [name for name in names if net.choices[name] == sizes]
                curve = [(sizes[-1], 0.0)]
                for size in _spread(sizes[:-1], points):
                    together = time_config(net.largest | dict.fromkeys(same, size))
                    curve.insert(0, (size, max(0.0, largest - together) / len(same)))
                saved |= dict.fromkeys(same, tuple(curve))
        blocks = {}
        for path, units in net.graph.units.items():
            values = net.choices.get(f"{path}.depth", ())
            if len(values) > 1:
                gone = values[-1] - values[0]
                without = time_config(net.largest | {f"{path}.depth": values[0]})
                blocks[path] = [max(0.0, largest - without) / gone] * len(units)
        return cls(net, largest, saved, blocks)

    def predict(self, config: Mapping[str, int]) -> float:
        """Milliseconds of a subnet."""
        total = self.largest_ms
        gone: list[str] = []
        for path, units in self._net.graph.units.items():
            largest = self._net.largest.get(f"{path}.depth", len(units))  # the timed one's
            count = config.get(f"{path}.depth", largest)
            for index in self._net.depth_orders[path][count:largest]:
                if path in self.block_ms:
                    total -= self.block_ms[path][index]
                    gone.append(f"{units[index].path}.")
        for name, curve in self.saved.items():
            if not any(name.startswith(prefix) for prefix in gone):
                total -= _interpolate(curve, config.get(name, curve[-1][0]))
        return max(total, 0.0)


def milliseconds(net: Supernet, config: Mapping[str, int], inputs: Any, repeats: int) -> float:
    """The median time of one forward of a subnet in the supernet, after a warm-up."""
    asynchronous = torch.accelerator.is_available()
    times = []
    with net.active(config), evaluation_mode(net.model), torch.no_grad():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            call_model(net.model, inputs)
            if asynchronous:
                torch.accelerator.synchronize()
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def _spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values, the first among them, evenly; descending."""
    step = max(1, -(-len(values) // count))
    return sorted(values[::step], reverse=True)


def _interpolate(curve: Curve, size: int) -> float:
    sizes = [s for s, _ in curve]
    place = bisect_left(sizes, size)
    if place == 0:
        return curve[0][1]
    if place == len(curve):
        return curve[-1][1]
    (low, one), (high, two) = curve[place - 1], curve[place]
    return one + (two - one) * (size - low) / (high - low)

"""How much the outputs change where one choice is made smaller, measured on batches.

The damage of a subnet is the squared change of its outputs, relative to their variance over the
samples. It is measured for every group at a few of its sizes, alone, and for every block left
out, and put together by addition. Batch norms use the statistics of the batch meanwhile, since a
subnet's own are recalibrated in the end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from osf_supernet.subnets.planning import Config
from osf_supernet.supernet import Supernet
from osf_supernet.trace.tracing import call_model, evaluation_mode
from osf_supernet.training.batch_norm import batch_statistics

Curve = tuple[tuple[int, float], ...]  # (size, damage), sizes ascending
Report = Callable[[int, int], object]  # done, of how many


class Sensitivity:
    """Measured damage of each choice alone.

    Attributes:
        curves: group or depth list → its damage at some of its sizes, ascending.
        blocks: name of a block in configs → damage without it, where blocks are chosen one by one.
    """

    def __init__(
        self, net: Supernet, curves: Mapping[str, Curve], blocks: Mapping[str, float]
    ) -> None:
        self.net, self.curves, self.blocks = net, dict(curves), dict(blocks)
        self._inside = {
            name: {
                group
                for group in curves
                if _is_inside(net, group, name.removesuffix(".block"))
                and len(net.ties.get(group, ())) < 2  # other layers have its size too
            }
            for names in net.blocks.values()
            for name in names
        }

    def at(self, name: str, size: int) -> float:
        """The damage of one group, depth list or block at a size; interpolated between sizes."""
        if name in self.blocks:
            return 0.0 if size else self.blocks[name]
        return interpolate(self.curves[name], size)

    def unseen(self, config: Mapping[str, int]) -> set[str]:
        """The groups whose size makes no difference, since their block is left out."""
        out = self.net.left_out(config)
        names = [self.net.blocks[path][index] for path, gone in out.items() for index in gone]
        return set().union(*(self._inside[name] for name in names))

    def of(self, config: Mapping[str, int]) -> float:
        """The damage of a config: that of all its choices that can be seen."""
        unseen = self.unseen(config)
        seen = [n for n in (*self.curves, *self.blocks) if n in config and n not in unseen]
        return sum(self.at(name, config[name]) for name in seen)


def measure_sensitivity(
    net: Supernet,
    batches: Sequence[Any],
    *,
    any_blocks: bool = True,
    points: int = 4,
    report: Report | None = None,
) -> Sensitivity:
    """Measure the damage of every choice of a supernet.

    Args:
        net: The supernet.
        batches: Inputs that it is measured on.
        any_blocks: Leave out each block alone; otherwise as many as depths do, in their order.
        points: Sizes per group that are measured, the smallest among them.
        report: Called after each measurement.
    """
    measured, base = _Damage(net, batches), net.largest
    jobs: list[tuple[str, int]] = []
    for name, values in net.choices.items():
        if name.endswith(".depth") and any_blocks and len(values) > 1:
            names = net.blocks[name.removesuffix(".depth")]
            jobs += [(block, 0) for block in names if len(names) > values[0]]
        else:
            jobs += [(name, size) for size in spread(values[:-1], points)]
    found: dict[str, dict[int, float]] = {}
    for done, (name, size) in enumerate(jobs, 1):
        found.setdefault(name, {})[size] = measured(base | {name: size})
        if report is not None:
            report(done, len(jobs))
    curves = {n: _rising(d | {base[n]: 0.0}) for n, d in found.items() if n in net.choices}
    return Sensitivity(net, curves, {n: d[0] for n, d in found.items() if n not in net.choices})


class _Damage:
    """Config → squared change of the outputs, relative to their variance."""

    def __init__(self, net: Supernet, batches: Sequence[Any]) -> None:
        self.net, self.batches = net, list(batches)
        self.full = [self._run(batch) for batch in self.batches]
        self.scale = [[_variance(x) for x in outputs] for outputs in self.full]

    def __call__(self, config: Config) -> float:
        with self.net.active(config):
            found = [self._run(batch) for batch in self.batches]
        total, count = 0.0, 0
        for outputs, full, scale in zip(found, self.full, self.scale, strict=True):
            for x, y, variance in zip(outputs, full, scale, strict=True):
                total += float((x.float() - y.float()).square().mean()) / variance
                count += 1
        return total / max(1, count)

    def _run(self, batch: Any) -> list[Tensor]:
        model = self.net.model
        leaves = [x for x in pytree.tree_leaves(batch) if isinstance(x, Tensor) and x.dim()]
        enough = bool(leaves) and len(leaves[0]) >= 8  # fewer samples say nothing of statistics
        own = batch_statistics(model) if enough else nullcontext()
        with evaluation_mode(model), own, torch.no_grad():
            outputs = pytree.tree_leaves(call_model(model, batch))
        return [x for x in outputs if isinstance(x, Tensor) and x.is_floating_point() and x.numel()]


def _variance(x: Tensor) -> float:
    """Of an output over its samples; of a single one its mean square."""
    x = x.float()
    centered = x - x.mean(0, keepdim=True) if x.dim() and len(x) > 1 else x
    return max(float(centered.square().mean()), 1e-12)


def _rising(damage: Mapping[int, float]) -> Curve:
    """The curve with noise removed: a smaller size does at least the damage of a larger one."""
    worst, curve = 0.0, []
    for size in sorted(damage, reverse=True):
        worst = max(worst, damage[size])
        curve.append((size, worst))
    return tuple(reversed(curve))


def _is_inside(net: Supernet, group: str, path: str) -> bool:
    members = [g.members for g in net.graph.groups.values() if g.name == group]
    return all(name.startswith(f"{path}.") for name, _ in members[0]) if members else False


def spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values, the first among them, evenly; descending."""
    step = max(1, -(-len(values) // count))
    return sorted(values[::step], reverse=True)


def interpolate(curve: Curve, size: int) -> float:
    """The value at a size, linear between known ones and constant outside them."""
    sizes = [s for s, _ in curve]
    place = bisect_left(sizes, size)
    if place == 0:
        return curve[0][1]
    if place == len(curve):
        return curve[-1][1]
    (low, one), (high, two) = curve[place - 1], curve[place]
    return one + (two - one) * (size - low) / (high - low)

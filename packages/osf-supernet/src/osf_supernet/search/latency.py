"""Measured milliseconds of subnets: differences to the largest, fitted to whole subnets.

The largest subnet is timed, then each kind of group at its sizes and each kind of block left
out. What a subnet lacks would save the sum of those differences if they were independent, which
they are not (a product has two sizes): a few random subnets are timed too, and the time saved is
a combination of that sum, of the operations and of the blocks that fits them best, with
coefficients of at least zero. Each of the random subnets is then predicted from the others; where
that fails, the machine is too noisy or the model too small for predictions, and `measure` says so.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from osf_supernet.search.sensitivity import interpolate, spread
from osf_supernet.subnets.bounds import sample_config
from osf_supernet.subnets.graph_module import extract_plan
from osf_supernet.subnets.planning import Config
from osf_supernet.subnets.probing import cluster_groups
from osf_supernet.supernet import Supernet
from osf_supernet.trace.tracing import call_model, evaluation_mode

Curve = tuple[tuple[int, float], ...]  # (size, milliseconds saved), sizes ascending
_FITTED = 12  # random subnets that are timed


class LatencyTable:
    """Predicted milliseconds of any subnet on this machine.

    Attributes:
        largest_ms: of the largest subnet.
        saved: group name → milliseconds saved at some of its sizes.
        block_ms: path of a list → milliseconds of each of its blocks, by index.
        weights: of the sum of the differences, the operations, and the blocks, in the time saved.
        error: worst relative error of predictions of subnets that the weights were not fitted to;
            None if nothing was fitted.
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
        self.weights: tuple[float, ...] = (1.0, 0.0, 0.0)
        self.error: float | None = None
        self._least_ms = 0.0

    @classmethod
    def measure(
        cls,
        net: Supernet,
        inputs: Any = None,
        *,
        points: int = 3,
        repeats: int = 5,
        max_error: float = 0.2,
        report: Callable[[int, int], object] | None = None,
    ) -> LatencyTable:
        """Time subnets, extracted, on this machine.

        Args:
            net: the supernet; it runs on whatever device its model is on.
            inputs: what to call it with; the traced example by default.
            points: sizes per kind of group, the smallest among them.
            repeats: runs per size, of which the fastest counts.
            max_error: most relative error that predictions of other subnets may have.
            report: called after each measurement: how many, of how many.

        Raises:
            ValueError: predictions are worse than that.
        """
        clock = _Clock(net, net.inputs if inputs is None else inputs, repeats)
        jobs = _list_jobs(net, points)
        generator = random.Random(0)
        jobs += [sample_config(net.choices, generator) for _ in range(_FITTED)] + [net.smallest]
        times = []
        for done, config in enumerate(jobs, 1):
            times.append(clock(config))
            if report is not None:
                report(done, len(jobs))
        table = _make_table(cls, net, jobs[: -_FITTED - 1], times[: -_FITTED - 1])
        table._fit(jobs[-_FITTED - 1 :], times[-_FITTED - 1 :])
        if table.error is not None and table.error > max_error:
            raise ValueError(
                f"latencies cannot be predicted here: subnets that were timed differ from the "
                f"prediction by up to {table.error:.0%}, more than {max_error:.0%} (the largest "
                f"takes {table.largest_ms:.3g} ms). Use a larger batch as inputs, more repeats, or "
                "an idle machine; or pass a larger max_error"
            )
        return table

    def predict(self, config: Mapping[str, int]) -> float:
        """Milliseconds of a subnet."""
        saved = sum(w * x for w, x in zip(self.weights, self._features(config), strict=True))
        return max(self.largest_ms - saved, self._least_ms)

    def _features(self, config: Mapping[str, int]) -> tuple[float, float, float]:
        """Milliseconds saved: by the sum of differences, by operations, and by blocks."""
        total, blocks, gone = 0.0, 0, []
        net = self._net
        timed = net.left_out(net.largest)
        for path, indices in net.left_out({**net.largest, **config}).items():
            for index in set(indices) - set(timed.get(path, ())):
                if path in self.block_ms:
                    total += self.block_ms[path][index]
                    blocks += 1
                    gone.append(f"{net.graph.units[path][index].path}.")
        for name, curve in self.saved.items():
            if not any(name.startswith(prefix) for prefix in gone):
                total += interpolate(curve, config.get(name, curve[-1][0]))
        if self.error is None:
            return total, 0.0, 0.0
        fewer = 1 - net.flops_of(config) / max(1, net.flops_of(net.largest))
        count = max(1, sum(map(len, self.block_ms.values())))
        return total, fewer * self.largest_ms, blocks / count * self.largest_ms

    def _fit(self, configs: Sequence[Config], times: Sequence[float]) -> None:
        """Fit the weights, and find the error by predicting each random subnet from the others.

        The smallest, which is the last, is at the edge and always fitted to.
        """
        self.error = 0.0
        self._least_ms = 0.5 * min(times)
        features = torch.tensor([self._features(c) for c in configs], dtype=torch.float64)
        saved = self.largest_ms - torch.tensor(times, dtype=torch.float64)
        scale = 1 / torch.tensor(times, dtype=torch.float64)  # relative errors count
        errors = []
        for index in range(len(times) - 1):
            rest = [i for i in range(len(times)) if i != index]
            self.weights = _fit_nonnegative(
                features[rest] * scale[rest, None], saved[rest] * scale[rest]
            )
            errors.append(abs(self.predict(configs[index]) / times[index] - 1))
        self.error = max(errors)
        self.weights = _fit_nonnegative(features * scale[:, None], saved * scale)


class _Clock:
    """Config → the fastest of several calls of the extracted subnet, in milliseconds."""

    def __init__(self, net: Supernet, inputs: Any, repeats: int) -> None:
        self.net, self.inputs, self.repeats = net, inputs, repeats

    def __call__(self, config: Config) -> float:
        return milliseconds(self.net, config, self.inputs, self.repeats)


def milliseconds(net: Supernet, config: Mapping[str, int], inputs: Any, repeats: int) -> float:
    """The fastest of some calls of an extracted subnet, after two that do not count."""
    asynchronous = torch.accelerator.is_available()
    module = extract_plan(net.model, net.plan(config))
    times = []
    with evaluation_mode(module), torch.no_grad():
        for _ in range(repeats + 2):
            start = time.perf_counter()
            call_model(module, inputs)
            if asynchronous:
                torch.accelerator.synchronize()
            times.append(1000 * (time.perf_counter() - start))
    return min(times[2:])


def _list_jobs(net: Supernet, points: int) -> list[Config]:
    """The largest, each kind of group at some sizes, and each list at its smallest depth."""
    jobs = [net.largest]
    for same in _alike(net):
        sizes = net.choices[same[0]]
        jobs += [net.largest | dict.fromkeys(same, size) for size in spread(sizes[:-1], points)]
    for path in net.graph.units:
        values = net.choices.get(f"{path}.depth", ())
        if len(values) > 1:
            jobs.append(net.largest | {f"{path}.depth": values[0]})
    return jobs


def _alike(net: Supernet) -> list[list[str]]:
    """Groups of one kind with the same choices, timed together."""
    elastic = {g.name for g in net.graph.elastic() if len(net.choices.get(g.name, ())) > 1}
    found = []
    for alike in cluster_groups(net.graph):
        names = [g.name for g in alike if g.name in elastic]
        every = {net.choices[name] for name in names}
        found += [[name for name in names if net.choices[name] == sizes] for sizes in every]
    return found


def _make_table(
    kind: type[LatencyTable], net: Supernet, jobs: Sequence[Config], times: Sequence[float]
) -> LatencyTable:
    """The table of what was timed, in the order of `_list_jobs`."""
    largest, known = times[0], dict(zip(map(str, jobs), times, strict=True))
    saved: dict[str, Curve] = {}
    for same in _alike(net):
        sizes = net.choices[same[0]]
        curve = [(sizes[-1], 0.0)]
        for size in reversed(sizes[:-1]):
            together = known.get(str(net.largest | dict.fromkeys(same, size)))
            if together is not None:
                curve.insert(0, (size, max(0.0, largest - together) / len(same)))
        saved |= dict.fromkeys(same, tuple(curve))
    blocks = {}
    for path, units in net.graph.units.items():
        values = net.choices.get(f"{path}.depth", ())
        if len(values) > 1:
            without = known[str(net.largest | {f"{path}.depth": values[0]})]
            blocks[path] = [max(0.0, largest - without) / (values[-1] - values[0])] * len(units)
    return kind(net, largest, saved, blocks)


def _fit_nonnegative(features: Tensor, target: Tensor) -> tuple[float, ...]:
    """Least squares with coefficients of at least zero, by coordinate descent."""
    weights = torch.zeros(features.shape[1], dtype=torch.float64)
    squares = features.square().sum(0)
    for _ in range(500):
        for j in range(len(weights)):
            if squares[j] > 0:
                rest = target - features @ weights + features[:, j] * weights[j]
                weights[j] = max(0.0, float(features[:, j] @ rest / squares[j]))
    return tuple(weights.tolist())

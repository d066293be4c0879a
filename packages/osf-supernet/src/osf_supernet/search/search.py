"""The best subnets under bounds: a greedy path by importance, and NSGA-II on top of it.

NSGA-II is pymoo's (`pip install osf-supernet[search]`), over the position of each choice; every
offspring is repaired to the bounds before it is evaluated. The greedy path shrinks, step by
step, what loses the least importance per parameter (a knapsack's greedy solution); its subnets
are in the first population, so that the search starts from them and can only improve on them.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from osf_supernet.graph.graph import named_tensors
from osf_supernet.search.latency import LatencyTable
from osf_supernet.subnets.planning import Config

if TYPE_CHECKING:
    from osf_supernet.supernet import Supernet

COSTS = ("params", "flops", "latency_ms")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated subnet; `latency_ms` is None without a latency table."""

    config: Config
    score: float
    params: int
    flops: int
    latency_ms: float | None
    origin: str

    def cost(self, name: str) -> float:
        """One of its costs."""
        return float(getattr(self, name))


@dataclass(frozen=True)
class SearchResult:
    """Everything a search evaluated.

    Attributes:
        candidates: in the order of evaluation.
        cost: what the front trades the score against.
    """

    candidates: tuple[Candidate, ...]
    cost: str

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other beats in both, the cheapest first."""
        return pareto_front(self.candidates, self.cost)

    @property
    def greedy(self) -> list[Candidate]:
        """The front of the greedy path alone."""
        return pareto_front([c for c in self.candidates if c.origin == "greedy"], self.cost)

    @property
    def best(self) -> Candidate:
        """The highest score; of equal ones the cheapest."""
        return max(self.candidates, key=lambda c: (c.score, -c.cost(self.cost)))

    def save(self, path: str | Path) -> None:
        """Write the front and the greedy front as JSON."""
        data = {
            "cost": self.cost,
            "evaluated": len(self.candidates),
            "front": [asdict(c) for c in self.front],
            "greedy": [asdict(c) for c in self.greedy],
        }
        Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    def draw(self, path: str | Path, score_name: str = "score") -> None:
        """Score against cost as a picture; needs the extra `plot`."""
        from osf_supernet.graph.drawing import draw_front

        draw_front(self, path, score_name)


def digest(net: Supernet) -> str:
    """Of the weights, the sizes to choose from and the order of blocks: what scores depend on."""
    found = hashlib.sha256(json.dumps([net.choices, net.depth_orders], sort_keys=True).encode())
    for name, tensor in sorted(named_tensors(net.model).items()):
        found.update(name.encode())
        found.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return found.hexdigest()


def pareto_front(candidates: Sequence[Candidate], cost: str) -> list[Candidate]:
    """Candidates that no other matches at lower cost, the cheapest first."""
    found: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost(cost), -c.score)):
        if not found or candidate.score > found[-1].score:
            found.append(candidate)
    return found


class Search:
    """One search; see `Supernet.search` for the arguments."""

    def __init__(
        self,
        net: Supernet,
        evaluate: Callable[[Config], float],
        limits: Mapping[str, float],
        latency: LatencyTable | None,
        folder: Path | None,
    ) -> None:
        self.net, self.evaluate, self.limits = net, evaluate, dict(limits)
        self.latency = latency
        self.cost = next(iter(limits), "params")
        self.names = [name for name, values in net.choices.items() if len(values) > 1]
        self.fixed = {name: v[0] for name, v in net.choices.items() if len(v) == 1}
        self.candidates: dict[str, Candidate] = {}
        self._file = None if folder is None else folder / "evaluated.jsonl"
        self._digest = "" if folder is None else digest(net)
        self._known = self._read()
        for name, limit in self.limits.items():
            least = self.costs(net.smallest)[name]
            if least > limit:
                raise ValueError(
                    f"the smallest config has {name} {least:,.6g}, more than {limit:,.6g}; "
                    "raise the bound or widen the space"
                )

    def costs(self, config: Mapping[str, int]) -> dict[str, Any]:
        """Parameters, operations and, with a table, milliseconds of a subnet."""
        found: dict[str, Any] = {
            "params": self.net.parameters_of(config),
            "flops": self.net.flops_of(config),
            "latency_ms": None if self.latency is None else self.latency.predict(config),
        }
        return found

    def fits(self, config: Mapping[str, int]) -> bool:
        """Whether a subnet keeps to the bounds."""
        costs = self.costs(config)
        return all(costs[name] <= limit for name, limit in self.limits.items())

    def repair(self, config: Config, generator: random.Random) -> Config:
        """Shrink random choices until the bounds hold."""
        config = dict(config)
        while not self.fits(config):
            larger = [n for n in self.names if config[n] > self.net.choices[n][0]]
            name = generator.choice(larger)
            values = self.net.choices[name]
            config[name] = values[values.index(config[name]) - 1]
        return config

    def score(self, config: Config, origin: str) -> Candidate:
        """Evaluate a subnet once; later asks, also after a restart, get the same answer."""
        key = json.dumps(config, sort_keys=True)
        if key not in self.candidates:
            score = self._known.get(key)
            if score is None:
                score = float(self.evaluate(config))
                if not math.isfinite(score):
                    raise ValueError(f"evaluate must return a finite number, got {score}")
                self._append({"config": config, "score": score})
            self.candidates[key] = Candidate(
                config=dict(config), score=score, origin=origin, **self.costs(config)
            )
        return self.candidates[key]

    def _read(self) -> dict[str, float]:
        """Scores of an earlier run; a last line that it was killed in is dropped."""
        if self._file is None:
            return {}
        text = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
        whole, end, cut = text.rpartition("\n")
        if cut:
            self._file.write_text(whole + end, encoding="utf-8")
        lines = whole.splitlines()
        if not lines:
            self._append({"supernet": self._digest})
            return {}
        first, *rows = map(json.loads, lines)
        if first != {"supernet": self._digest}:
            raise ValueError(
                f"{self._file} holds scores of another supernet, or of other weights; expected "
                f"this one's: choose another folder, or delete the file"
            )
        return {json.dumps(row["config"], sort_keys=True): row["score"] for row in rows}

    def _append(self, row: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def greedy_path(self) -> list[Config]:
        """From the largest to the smallest, each step what loses least importance per cost."""
        config, path = dict(self.net.largest), [dict(self.net.largest)]
        while True:
            steps = []
            for name in self.names:
                values = self.net.choices[name]
                place = values.index(config[name])
                if place:
                    smaller = config | {name: values[place - 1]}
                    saved = self.costs(config)[self.cost] - self.costs(smaller)[self.cost]
                    lost = self.net.importance_between(name, values[place - 1], values[place])
                    steps.append((lost / saved if saved > 0 else math.inf, name, smaller))
            if not steps:
                return path
            config = min(steps, key=lambda step: step[:2])[2]
            path.append(config)

    def run(self, population: int, generations: int, seed: int, greedy: int) -> SearchResult:
        """Score part of the greedy path, then let NSGA-II go on from it."""
        for name, value, least in (
            ("population", population, 1),
            ("generations", generations, 0),
            ("greedy", greedy, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        fitting = [config for config in self.greedy_path() if self.fits(config)]
        stride = max(1, -(-len(fitting) // greedy))
        first = [*fitting[::stride], fitting[-1]]
        for config in first:
            self.score(config, "greedy")
        if generations and self.names:
            self._evolve(first, population, generations, seed)
        return SearchResult(tuple(self.candidates.values()), self.cost)

    def _evolve(self, first: list[Config], population: int, generations: int, seed: int) -> None:
        try:
            from osf_supernet.search.evolution import evolve
        except ImportError as error:
            raise ImportError(
                "search needs pymoo: pip install osf-supernet[search]; generations=0 keeps to "
                "the greedy path"
            ) from error
        evolve(self, first, population, generations, seed)

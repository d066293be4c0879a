"""What a search found: every evaluated subnet, the Pareto front and the best one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from osf_supernet.output_files import write_text
from osf_supernet.subnets.planning import Config


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated subnet.

    Attributes:
        config: Its sizes.
        score: What `evaluate` returned, higher is better.
        params: Its parameters.
        flops: Its floating point operations at the example's shapes.
        latency_ms: Its predicted latency; None without a latency table.
        origin: What proposed it, "greedy" or "nsga2".
    """

    config: Config
    score: float
    params: int
    flops: int
    latency_ms: float | None
    origin: str

    def cost(self, name: str) -> float:
        """One of its costs: params, flops or latency_ms."""
        return float(getattr(self, name))


@dataclass(frozen=True)
class SearchResult:
    """Everything a search evaluated.

    Attributes:
        candidates: In the order of evaluation.
        cost: What the front trades the score against: params, flops or latency_ms.
    """

    candidates: tuple[Candidate, ...]
    cost: str

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other beats in both score and cost, the cheapest first."""
        return pareto_front(self.candidates, self.cost)

    @property
    def greedy(self) -> list[Candidate]:
        """The front of the greedy path alone."""
        return pareto_front([c for c in self.candidates if c.origin == "greedy"], self.cost)

    @property
    def best(self) -> Candidate:
        """The highest score; of equal ones the cheapest."""
        return max(self.candidates, key=lambda c: (c.score, -c.cost(self.cost)))

    def to_dict(self) -> dict[str, object]:
        """The front and the greedy front as plain data for JSON."""
        return {
            "cost": self.cost,
            "evaluated": len(self.candidates),
            "front": [asdict(c) for c in self.front],
            "greedy": [asdict(c) for c in self.greedy],
        }

    def save(self, path: str | Path) -> None:
        """Write the front and the greedy front as JSON."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=2) + "\n")


def pareto_front(candidates: Sequence[Candidate], cost: str) -> list[Candidate]:
    """Candidates that no other matches at lower cost, the cheapest first."""
    found: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost(cost), -c.score)):
        if not found or candidate.score > found[-1].score:
            found.append(candidate)
    return found

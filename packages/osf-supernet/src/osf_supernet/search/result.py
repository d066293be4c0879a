"""What a search found: every evaluated subnet, the Pareto front and the best one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from osf_supernet.output_files import write_text
from osf_supernet.subnets.planning import Config
from osf_supernet.tables import format_table


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated subnet.

    Attributes:
        config: Its sizes.
        score: What `evaluate` returned, higher is better.
        params: Its parameters.
        flops: Its floating point operations at the example's shapes.
        latency_ms: Its predicted latency; None without a latency table.
        origin: What proposed it, "greedy" or "nsga2"; "full" of the full model.
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
        full: The full model, where it was evaluated.
    """

    candidates: tuple[Candidate, ...]
    cost: str
    full: Candidate | None = None

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

    def best_within(self, most: float, cost: str = "params") -> Candidate:
        """The highest score among those that cost at most so much; of equal ones the cheapest.

        Raises:
            ValueError: none costs so little.
        """
        fitting = [c for c in self.candidates if c.cost(cost) <= most]
        if not fitting:
            least = min(c.cost(cost) for c in self.candidates)
            raise ValueError(
                f"no subnet has {cost} of at most {most:,.10g}; the least is {least:,.10g}"
            )
        return max(fitting, key=lambda c: (c.score, -c.cost(cost)))

    def __str__(self) -> str:
        """The front as a table, the best subnet and the full model marked."""
        rows = [(c, "best" if c is self.best else "") for c in self.front]
        if self.full is not None:
            rows.append((self.full, "full model"))
        header = ["parameters", "operations", "score", "found by", ""]
        lines = [[f"{c.params:,}", f"{c.flops:,}", f"{c.score:.4g}", c.origin, n] for c, n in rows]
        if any(c.latency_ms is not None for c, _ in rows):
            header.insert(2, "milliseconds")
            for (candidate, _), line in zip(rows, lines, strict=True):
                known = candidate.latency_ms
                line.insert(2, "" if known is None else f"{known:.3g}")
        return f"{len(self.candidates)} subnets evaluated\n" + format_table([header, *lines])

    __repr__ = __str__

    def to_dict(self) -> dict[str, object]:
        """The front and the greedy front as plain data for JSON."""
        return {
            "cost": self.cost,
            "evaluated": len(self.candidates),
            "front": [asdict(c) for c in self.front],
            "greedy": [asdict(c) for c in self.greedy],
            "best": asdict(self.best),
        } | ({} if self.full is None else {"full": asdict(self.full)})

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

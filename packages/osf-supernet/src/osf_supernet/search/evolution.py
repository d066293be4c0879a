# mypy: disable-error-code="import-untyped,misc"
"""NSGA-II by pymoo over the positions of choices; the only user of pymoo."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.pm import PolynomialMutation
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.optimize import minimize

from osf_supernet.search.search import Search
from osf_supernet.subnets.planning import Config


class _Subnets(Problem):
    """Positions in each choice's list → (negative score, cost)."""

    def __init__(self, search: Search) -> None:
        self.search = search
        top = [len(search.net.choices[name]) - 1 for name in search.names]
        super().__init__(n_var=len(top), n_obj=2, xl=0, xu=np.array(top), vtype=int)

    def config(self, positions: Any) -> Config:
        choices = self.search.net.choices
        picked = {
            name: choices[name][int(place)]
            for name, place in zip(self.search.names, positions, strict=True)
        }
        return self.search.fixed | picked

    def positions(self, config: Config) -> list[int]:
        return [self.search.net.choices[n].index(config[n]) for n in self.search.names]

    def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        found = [self.search.score(self.config(row), "nsga2") for row in x]
        out["F"] = np.array([[-c.score, c.cost(self.search.cost)] for c in found])


class _WithinBounds(Repair):
    """Integers first, then the bounds."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = random.Random(seed)

    def _do(self, problem: _Subnets, X: Any, **kwargs: Any) -> Any:
        rows = np.clip(np.round(X), problem.xl, problem.xu).astype(int)
        repaired = [problem.search.repair(problem.config(row), self.generator) for row in rows]
        return np.array([problem.positions(config) for config in repaired])


def evolve(
    search: Search, first: list[Config], population: int, generations: int, seed: int
) -> None:
    """Run NSGA-II from these subnets, filled up with random ones; `search` keeps the results."""
    problem = _Subnets(search)
    generator = random.Random(seed)
    start = [problem.positions(config) for config in first][:population]
    while len(start) < population:
        config = {name: generator.choice(values) for name, values in search.net.choices.items()}
        start.append(problem.positions(search.repair(config, generator)))
    algorithm = NSGA2(
        pop_size=population,
        sampling=np.array(start),
        crossover=UniformCrossover(repair=RoundingRepair()),
        mutation=PolynomialMutation(prob=1.0, prob_var=2 / len(search.names), eta=3, vtype=float),
        repair=_WithinBounds(seed),
        eliminate_duplicates=True,
    )
    minimize(problem, algorithm, ("n_gen", generations), seed=seed, verbose=False)

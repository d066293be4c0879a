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

from osf_supernet.search.config import SearchConfig
from osf_supernet.search.scoring import Scorer
from osf_supernet.subnets.bounds import sample_config
from osf_supernet.subnets.planning import Config


class _Subnets(Problem):
    """Positions in each choice's list → (negative score, cost)."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.choices = scorer, scorer.net.choices
        self.names = [name for name, values in self.choices.items() if len(values) > 1]
        self.fixed = {name: v[0] for name, v in self.choices.items() if len(v) == 1}
        top = [len(self.choices[name]) - 1 for name in self.names]
        super().__init__(n_var=len(top), n_obj=2, xl=0, xu=np.array(top), vtype=int)

    def config(self, positions: Any) -> Config:
        picked = {
            name: self.choices[name][int(place)]
            for name, place in zip(self.names, positions, strict=True)
        }
        return self.fixed | picked

    def positions(self, config: Config) -> list[int]:
        return [self.choices[name].index(config[name]) for name in self.names]

    def shrink(self, config: Config, generator: random.Random) -> Config:
        return self.scorer.bounds.shrink(config, self.choices, generator)

    def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        found = [self.scorer.score(self.config(row), "nsga2") for row in x]
        out["F"] = np.array([[-c.score, c.cost(self.scorer.cost)] for c in found])


class _WithinBounds(Repair):
    """Rounds positions to integers and shrinks subnets to the bounds."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = random.Random(seed)

    def _do(self, problem: _Subnets, X: Any, **kwargs: Any) -> Any:
        rows = np.clip(np.round(X), problem.xl, problem.xu).astype(int)
        repaired = [problem.shrink(problem.config(row), self.generator) for row in rows]
        return np.array([problem.positions(config) for config in repaired])


def evolve(scorer: Scorer, first: list[Config], config: SearchConfig) -> None:
    """Run NSGA-II from these subnets, filled up with random ones; `scorer` keeps the results."""
    problem = _Subnets(scorer)
    generator = random.Random(config.seed)
    start = [problem.positions(subnet) for subnet in first][: config.population]
    while len(start) < config.population:
        subnet = sample_config(problem.choices, generator)
        start.append(problem.positions(problem.shrink(subnet, generator)))
    algorithm = NSGA2(
        pop_size=config.population,
        sampling=np.array(start),
        crossover=UniformCrossover(repair=RoundingRepair()),
        mutation=PolynomialMutation(prob=1.0, prob_var=2 / len(problem.names), eta=3, vtype=float),
        repair=_WithinBounds(config.seed),
        eliminate_duplicates=True,
    )
    minimize(problem, algorithm, ("n_gen", config.generations), seed=config.seed, verbose=False)

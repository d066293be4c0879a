"""The best subnets under bounds: a greedy path by importance, and NSGA-II on top of it.

NSGA-II is pymoo's (`pip install osf-supernet[search]`), over the position of each choice; every
offspring is repaired to the bounds before it is evaluated. The greedy path shrinks, step by
step, what loses the least importance per parameter (a knapsack's greedy solution); its subnets
are in the first population, so that the search starts from them and can only improve on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from torch import nn

from osf_supernet.search.config import SearchConfig
from osf_supernet.search.latency import LatencyTable
from osf_supernet.search.result import SearchResult
from osf_supernet.search.scoring import Scorer
from osf_supernet.subnets.planning import Config
from osf_supernet.supernet import Supernet


def search_subnets(
    net: Supernet,
    evaluate: Callable[[nn.Module], float],
    config: SearchConfig | None = None,
    *,
    latency: LatencyTable | None = None,
    folder: str | Path | None = None,
) -> SearchResult:
    """Search the best subnets of a supernet under bounds: greedy by importance, then NSGA-II.

    Importance is that of the last `reorder` or `rank`; without one, groups are ranked by
    magnitude as they stand.

    Args:
        net: The supernet; its weights stay as they are.
        evaluate: Model → score, higher is better; the model runs as the subnet meanwhile.
        config: Bounds and size of the search; no bound by default.
        latency: A table measured before; a bound on latency measures one now without it.
        folder: Where scores are kept, so that a search that is started again evaluates no
            subnet twice.

    Raises:
        ValueError: Even the smallest config exceeds a bound.
        ImportError: NSGA-II needs pymoo, which is not installed.
    """
    config = config or SearchConfig()
    elastic = any(len(values) > 1 for values in net.choices.values())
    evolve = _import_evolution() if config.generations and elastic else None
    if not net.ranking.groups:
        net.rank()
    if config.max_latency_ms is not None and latency is None:
        latency = LatencyTable.measure(net)
    scorer = Scorer(net, evaluate, config, latency, None if folder is None else Path(folder))
    first = _score_greedy_path(scorer, config.greedy)
    if evolve is not None:
        evolve(scorer, first, config)
    return SearchResult(tuple(scorer.candidates.values()), scorer.cost)


def _score_greedy_path(scorer: Scorer, count: int) -> list[Config]:
    """Score about `count` subnets of the greedy path that fit, evenly, and the smallest."""
    fitting = [subnet for subnet in greedy_path(scorer) if scorer.bounds.fit(subnet)]
    stride = max(1, -(-len(fitting) // count))
    first = [*fitting[::stride], fitting[-1]]
    for subnet in first:
        scorer.score(subnet, "greedy")
    return first


def greedy_path(scorer: Scorer) -> list[Config]:
    """From the largest to the smallest, each step what loses least importance per cost."""
    net, cost = scorer.net, scorer.costs[scorer.cost]
    config, path = dict(net.largest), [dict(net.largest)]
    while True:
        steps = []
        for name, values in net.choices.items():
            place = values.index(config[name])
            if place:
                smaller = config | {name: values[place - 1]}
                saved = cost(config) - cost(smaller)
                lost = net.importance_between(name, values[place - 1], values[place])
                steps.append((lost / saved if saved > 0 else math.inf, name, smaller))
        if not steps:
            return path
        config = min(steps, key=lambda step: step[:2])[2]
        path.append(config)


def _import_evolution() -> Callable[[Scorer, list[Config], SearchConfig], None]:
    try:
        from osf_supernet.search.evolution import evolve
    except ImportError as error:
        raise ImportError(
            "search needs pymoo: pip install osf-supernet[search]; generations=0 evaluates the "
            "greedy path only"
        ) from error
    return evolve

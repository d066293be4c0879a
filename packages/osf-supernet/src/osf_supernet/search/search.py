"""The best subnets under bounds: a greedy path by measured worth, and NSGA-II on top of it.

NSGA-II is pymoo's (`pip install osf-supernet[search]`), over the position of each choice; every
offspring is repaired to the bounds before it is evaluated. The greedy path shrinks, step by
step, what changes the outputs least per parameter (a knapsack's greedy solution); its subnets
are in the first population, so that the search starts from them and can only improve on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from osf_supernet.progress import ProgressBar
from osf_supernet.search.config import SearchConfig
from osf_supernet.search.greedy import GreedyPath
from osf_supernet.search.latency import LatencyTable
from osf_supernet.search.result import SearchResult
from osf_supernet.search.scoring import Scorer
from osf_supernet.search.sensitivity import Sensitivity, measure_sensitivity
from osf_supernet.subnets.bounds import Bounds, resolve_share
from osf_supernet.subnets.planning import Config
from osf_supernet.supernet import Supernet
from osf_supernet.training.batch_norm import recalibrated


def search_subnets(
    net: Supernet,
    evaluate: Callable[[nn.Module], float],
    config: SearchConfig | None = None,
    *,
    latency: LatencyTable | None = None,
    folder: str | Path | None = None,
    data: str | None = None,
    calibration: Sequence[Any] = (),
    full_model: bool = False,
    quiet: bool = False,
) -> SearchResult:
    """Search the best subnets of a supernet under bounds: greedy by importance, then NSGA-II.

    What a step of the greedy path loses is measured: the change of the outputs on `calibration`,
    or on the example without it. Blocks are left out in the order of the supernet's depths.

    Args:
        net: The supernet; its weights stay as they are.
        evaluate: Model → score, higher is better; the model runs as the subnet meanwhile.
        config: Bounds and size of the search; no bound by default.
        latency: A table measured before; a bound on latency measures one now without it.
        folder: Where scores are kept, so that a search that is started again evaluates no
            subnet twice.
        data: A digest or name of the data that `evaluate` uses: scores in the folder that are of
            other data are refused.
        calibration: Inputs that batch norms are recalibrated on before each evaluation; a model
            with batch norms needs them, unless `evaluate` recalibrates by itself.
        full_model: Evaluate the full model too, which the result then has as `full`.
        quiet: No progress bar on standard error.

    Raises:
        ValueError: Even the smallest config exceeds a bound, or latencies cannot be predicted.
        ImportError: NSGA-II needs pymoo, which is not installed.
    """
    config = config or SearchConfig()
    elastic = any(len(values) > 1 for values in net.choices.values())
    evolve = _import_evolution() if config.generations and elastic else None
    if not net.ranking.groups:
        net.rank()
    with ProgressBar("measuring latencies", quiet=quiet) as bar:
        if config.max_latency_ms is not None and latency is None:
            latency = LatencyTable.measure(net, report=bar.update)
        at = None if folder is None else Path(folder)
        calibrated = _calibrate(evaluate, calibration)
        scorer = Scorer(net, calibrated, config, latency, at, bar.update, data)
        bar.stage("measuring what each part is worth")
        batches = list(calibration) or [net.inputs]
        sensitivity = measure_sensitivity(net, batches, any_blocks=False, report=bar.update)
        bar.stage("evaluating subnets")
        first = _score_greedy_path(scorer, sensitivity, config)
        if evolve is not None:
            evolve(scorer, first, config)
        full = scorer.evaluate({}, "full") if full_model else None
    return SearchResult(tuple(scorer.candidates.values()), scorer.cost, full)


def _calibrate(
    evaluate: Callable[[nn.Module], float], calibration: Sequence[Any]
) -> Callable[[nn.Module], float]:
    """The evaluation of a model whose batch norms are recalibrated meanwhile."""
    if not len(calibration):
        return evaluate

    def score(model: nn.Module) -> float:
        with recalibrated(model, calibration):
            return evaluate(model)

    return score


def _score_greedy_path(
    scorer: Scorer, sensitivity: Sensitivity, config: SearchConfig
) -> list[Config]:
    """Score about so many subnets of the greedy path that fit, evenly, and the smallest.

    The first of them is what loses least within the bounds.
    """
    path = GreedyPath(scorer.net, scorer.cost, scorer.costs[scorer.cost], sensitivity)
    fitting = [subnet for subnet in path.configs() if scorer.bounds.fit(subnet)]
    fitting.insert(0, path.fit(scorer.bounds))
    stride = max(1, -(-len(fitting) // config.greedy))
    net = scorer.net
    limits = [resolve_share(share, net.parameters_of) for share in config.smaller_params]
    bounds = [Bounds({"params": net.parameters_of}, {"params": limit}) for limit in limits]
    smaller = [path.fit(bound) for bound in bounds if bound.fit(net.smallest)]
    first = [*smaller, *fitting[::stride], fitting[-1]]
    for subnet in first:
        scorer.score(subnet, "greedy")
    return first


def _import_evolution() -> Callable[[Scorer, list[Config], SearchConfig], None]:
    try:
        from osf_supernet.search.evolution import evolve
    except ImportError as error:
        raise ImportError(
            "search needs pymoo: pip install osf-supernet[search]; generations=0 evaluates the "
            "greedy path only"
        ) from error
    return evolve

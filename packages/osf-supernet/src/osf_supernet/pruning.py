"""One smaller module out of a trained one, in one call.

`keep_largest` is registered as `largest` in the entry-point group `dtp_pooling.pruning`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.counting import count_parameters
from osf_supernet.progress import ProgressBar
from osf_supernet.search.greedy import GreedyPath
from osf_supernet.search.sensitivity import measure_sensitivity
from osf_supernet.subnets.batch_losses import Loss, first_batches, inputs_of
from osf_supernet.subnets.bounds import Bounds
from osf_supernet.subnets.planning import Config
from osf_supernet.subnets.space import Choice, Space, fine_space, sizes
from osf_supernet.subnets.surgery import copy_module
from osf_supernet.supernet import Supernet
from osf_supernet.training.batch_norm import has_running_statistics, recalibrate

MOST_BATCHES = 16
"""Batches that are read from a loader or generator."""
MEASURED_SAMPLES = 256
"""About how many of their samples every part is measured on."""
_COSTS = ("params", "flops")


def prune(
    model: nn.Module,
    example_inputs: Any,
    keep: float = 0.5,
    *,
    batches: Iterable[Any] = (),
    loss: Loss | None = None,
    cost: str = "params",
    space: Space | Mapping[str, Choice] | None = None,
    outputs: Sequence[str] = ("*",),
    quiet: bool = False,
) -> nn.Module:
    """A smaller module of the same class, cut where its outputs change the least.

    Widths are sorted by importance (Taylor with a loss and batches, magnitude otherwise). How much
    the outputs change is measured for each group at several sizes and for each block left out;
    what changes them least per parameter goes first, until the share is reached. The result is
    verified against the masked full model, and its batch norms are recalibrated on the batches.
    Only where the share cannot be reached in the model's class is it a traced graph.

    Args:
        model: Trained; it is copied and stays as it was.
        example_inputs: What to trace it on: a tensor, a tuple of arguments, or a dict of keywords.
        keep: The share of the parameters to keep at most, in (0, 1].
        batches: A list or loader of training batches, of which the first 16 are used: pairs
            `(inputs, targets)` with a loss that takes targets, otherwise inputs.
        loss: `loss(outputs, targets)` as torch's own, or `loss(outputs)`.
        cost: What is shared: "params", or "flops" at the shapes of the example.
        space: The sizes to choose from; steps of an eighth and any subset of blocks by default.
        outputs: Patterns of the outputs whose shape must stay.
        quiet: No progress bar and no summary on standard error.

    Returns:
        The module, in the modes of `model`. Its attribute `osf_record` holds config and
        certificate, and `save_subnet` takes it.

    Raises:
        ValueError: The share is out of range or cannot be reached, or batches and loss do not go
            together.
        TraceError: The model could not be traced.
        VerificationError: The smaller module does not compute what it should.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep:g}; 0.5 keeps half of the parameters")
    if cost not in _COSTS:
        raise ValueError(f"cost must be one of {', '.join(_COSTS)}, got {cost!r}")
    samples = _read_batches(model, batches, loss, example_inputs)
    inputs = [inputs_of(batch, loss) for batch in samples]
    with ProgressBar("tracing", quiet=quiet) as bar:
        net = Supernet(copy_module(model), example_inputs, space, outputs=outputs)
        bounds = _make_bounds(net, keep, cost, own_space=space is None)
        config = choose_subnet(net, bounds, samples=samples, loss=loss, bar=bar)
        bar.stage("extracting and verifying")
        small = net.extract(config)
        _recalibrate(small, inputs)
    if not quiet:
        print(summarize(net, small, config), file=sys.stderr)
    return small


def choose_subnet(
    net: Supernet,
    bounds: Bounds,
    *,
    samples: Sequence[Any] = (),
    loss: Loss | None = None,
    bar: ProgressBar,
    sort: bool = True,
    any_blocks: bool = True,
) -> Config:
    """The subnet within bounds on params or flops that changes the outputs the least.

    Args:
        net: The supernet, which is sorted in place.
        bounds: On params, flops or both, of which the first counts for the steps.
        samples: Batches, pairs where the loss takes targets; the example without them.
        loss: For Taylor importance; magnitude without it.
        bar: Where progress is shown.
        sort: Sort the widths first; not where the subnets were trained in their order.
        any_blocks: Leave out any block, rather than as the depths of the supernet do.
    """
    if sort:
        bar.stage("sorting widths by importance")
        net.reorder("taylor" if loss is not None and samples else "magnitude", samples, loss)
    bar.stage("measuring what each part is worth")
    inputs = [inputs_of(batch, loss) for batch in samples]
    few = _first_samples(inputs, MEASURED_SAMPLES) or [net.inputs]
    sensitivity = measure_sensitivity(net, few, any_blocks=any_blocks, report=bar.update)
    cost = next(iter(bounds.limits))
    costs = {"params": net.parameters_of, "flops": net.flops_of}
    return GreedyPath(net, cost, costs[cost], sensitivity).fit(bounds)


def _read_batches(
    model: nn.Module, batches: Iterable[Any], loss: Loss | None, example_inputs: Any
) -> list[Any]:
    """The first batches on the model's device, which must go together with the loss."""
    first = next(model.parameters(), None)
    if first is None:
        return []
    samples = first_batches(batches, MOST_BATCHES, first.device)
    if loss is not None and not samples:
        raise ValueError("a loss needs batches to be computed on: pass batches=, a list or loader")
    is_one_tensor = isinstance(example_inputs, Tensor)
    if loss is None and samples and is_one_tensor and not isinstance(samples[0], Tensor):
        raise ValueError(
            f"the model takes one tensor, got batches of {type(samples[0]).__name__}: pass the "
            "loss of (outputs, targets) too, for example "
            "loss=torch.nn.functional.cross_entropy, or leave the targets out"
        )
    return samples


def _first_samples(inputs: Sequence[Any], count: int) -> list[Any]:
    """The first batches that have so many samples, at least one."""
    found: list[Any] = []
    for batch in inputs:
        if count <= 0:
            break
        found.append(batch)
        leaves = [x for x in pytree.tree_leaves(batch) if isinstance(x, Tensor) and x.dim()]
        count -= len(leaves[0]) if leaves else 1
    return found


def _make_bounds(net: Supernet, keep: float, cost: str, *, own_space: bool) -> Bounds:
    """The bound on the cost; where the space is ours, one in which it can be reached."""
    costs = {"params": net.parameters_of, "flops": net.flops_of}
    bounds = Bounds(costs, {cost: keep * costs[cost]({})})
    if own_space:
        use_fine_space(net, bounds)
    if not bounds.fit(net.smallest):
        least = costs[cost](net.smallest) / costs[cost]({})
        raise ValueError(
            f"keep={keep:g} cannot be reached: the smallest subnet has {least:.1%} of the "
            f"{_words(cost)}; print(Supernet(model, example_inputs).explain()) says what is frozen"
        )
    return bounds


def use_fine_space(net: Supernet, bounds: Bounds, *kinds: str) -> None:
    """Give a supernet small steps to choose from: of some kinds, or more if only they suffice.

    Args:
        net: Its space is replaced.
        bounds: What must be reached.
        kinds: What may change if that is enough; widths inside blocks by default. Sizes that only
            a traced graph can have come last.
    """
    spaces = [fine_space(net.graph, kinds=kinds)] if kinds else []
    for traced in (False, True) if net.graph.traced_only else (False,):
        spaces += [fine_space(net.graph, wide=wide, traced=traced) for wide in (False, True)]
    for space in spaces:
        net.space = space
        if bounds.fit(net.smallest):
            return


def _recalibrate(small: nn.Module, inputs: Sequence[Any]) -> None:
    if inputs:
        recalibrate(small, inputs)
    elif has_running_statistics(small):
        warnings.warn(
            "the batch norms of the pruned module keep the statistics of the full one: pass "
            "batches= to prune, or call osf_supernet.training.recalibrate",
            stacklevel=3,
        )


def summarize(net: Supernet, small: nn.Module, config: Config) -> str:
    """What became of a module, in a few lines."""
    full, count = count_parameters(net.model), count_parameters(small)
    flops = net.flops_of(config) / max(1, net.flops_of({}))
    certificate = vars(small)["osf_record"]["certificate"]
    lines = [
        f"{count:,} of {full:,} parameters ({count / full:.1%}), {flops:.1%} of the operations",
        f"verified: differs from the masked full model by {certificate['max_error']:.1g} "
        f"(allowed {certificate['tolerance']:g})",
    ]
    out = net.left_out(config)
    for path, indices in out.items():
        units = net.graph.units[path]
        names = ", ".join(units[index].path.rpartition(".")[2] for index in indices)
        lines.append(f"{path}: {len(units) - len(indices)} of {len(units)} blocks, without {names}")
    return "\n".join(lines)


def _words(cost: str) -> str:
    return {"params": "parameters", "flops": "operations"}[cost]


def keep_largest(model: nn.Module, inputs: Any, kept: Mapping[str, int]) -> nn.Module:
    """The module cut down to its largest weights, verified as any extraction is.

    Args:
        model: Trained; the order of its own weights may change, its function does not.
        inputs: What to trace it on; see `Supernet`.
        kept: Kind or pattern of groups → size of each, as in a space.
    """
    net = Supernet(model, inputs, space={name: sizes(size) for name, size in kept.items()})
    net.reorder("magnitude")
    return net.extract(net.smallest)

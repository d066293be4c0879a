"""Importance of groups and blocks, and sorting a model by it.

A group's indices are scored by `importance`; a block by how much the outputs change without it,
and blocks are ordered by that score per parameter, so that an expensive block may be the first
to be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from osf_supernet.graph.graph import named_tensors
from osf_supernet.subnets.batch_losses import Loss
from osf_supernet.subnets.comparison import difference, run, run_active, tolerance_of
from osf_supernet.subnets.importance import importance, permute
from osf_supernet.subnets.planning import Planner


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Importance of indices and blocks.

    Attributes:
        groups: Group number → score per index, in the order that the weights have.
        blocks: List path → score per block, in the order that depths keep them.
    """

    groups: Mapping[int, Tensor] = field(default_factory=dict)
    blocks: Mapping[str, list[float]] = field(default_factory=dict)

    def share_between(self, planner: Planner, name: str, smaller: int, larger: int) -> float:
        """The share of a group's (or depth list's) importance between two of its sizes.

        Every index of a group or list that was not ranked counts alike.
        """
        path = name.removesuffix(".depth")
        if path in self.blocks:
            scores = torch.tensor(self.blocks[path], dtype=torch.float64)
        else:
            group = planner.by_name.get(name)
            found = None if group is None else self.groups.get(group.number)
            full = planner.full_sizes[name]
            scores = torch.ones(full, dtype=torch.float64) if found is None else found
        total = float(scores.sum())
        return float(scores[smaller:larger].sum()) / total if total > 0 else 0.0


def rank_model(
    planner: Planner,
    inputs: Any,
    method: str,
    batches: Sequence[Any],
    loss: Loss | None,
) -> Ranking:
    """Score the groups and blocks of a model as they stand; nothing is moved.

    Args:
        planner: Of the model.
        inputs: What blocks are left out on.
        method: One of `importance.METHODS`.
        batches: Inputs, or pairs (inputs, targets), for the methods that need data.
        loss: `loss(outputs, targets)` or `loss(outputs)`, for taylor and fisher.
    """
    model, graph = planner.module, planner.graph
    scores = importance(model, graph, method, batches or [inputs], loss)
    changes = _changes_without_blocks(planner, inputs, run(model, inputs))
    return Ranking(
        groups={number: score.double() for number, score in scores.items()},
        blocks={
            path: [change[index] for index in planner.depth_order[path]]
            for path, change in changes.items()
        },
    )


def sort_model(
    planner: Planner,
    inputs: Any,
    method: str,
    batches: Sequence[Any],
    loss: Loss | None,
    known: Ranking,
) -> Ranking:
    """Put the most important index of each group first, and order the planner's blocks.

    Args:
        planner: Of the model, whose weights are permuted in place.
        inputs: What outputs are compared on.
        method: One of `importance.METHODS`; "random" leaves the order of blocks alone.
        batches: Inputs, or pairs (inputs, targets), for the methods that need data.
        loss: `loss(outputs, targets)` or `loss(outputs)`, for taylor and fisher.
        known: The ranking until now.

    Raises:
        RuntimeError: The model's function changed; the weights are as they were.
    """
    model, graph = planner.module, planner.graph
    before = run(model, inputs)
    saved = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    scores = importance(model, graph, method, batches or [inputs], loss)
    order = {n: score.argsort(descending=True, stable=True) for n, score in scores.items()}
    permute(model, graph, order)
    error, tolerance = difference(run(model, inputs), before), tolerance_of(graph)
    if not error <= tolerance:
        _restore(model, saved)
        raise RuntimeError(
            f"sorting changed the model's function by {error:.3g}, allowed {tolerance:g}; weights "
            "are restored. If it does so in float64 too, please report the model"
        )
    known = replace(known, groups={n: score[order[n]].double() for n, score in scores.items()})
    if method == "random":
        return known
    blocks: dict[str, list[float]] = {}
    for path, change in _changes_without_blocks(planner, inputs, before).items():
        sizes = [block_size(planner, path, index) for index in change]
        planner.depth_order[path] = sorted(change, key=lambda i: -change[i] / max(1, sizes[i]))
        blocks[path] = [change[index] for index in planner.depth_order[path]]
    return replace(known, blocks={**known.blocks, **blocks})


def block_size(planner: Planner, path: str, index: int) -> int:
    """The parameters of a block of a list, whatever is shared with others included."""
    block = planner.module.get_submodule(planner.graph.units[path][index].path)
    return sum(parameter.numel() for parameter in block.parameters())


def _restore(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            tensor.copy_(saved[name])


def _changes_without_blocks(
    planner: Planner, inputs: Any, full: list[Any]
) -> dict[str, dict[int, float]]:
    """List path → block → how much the outputs change without it."""
    changes: dict[str, dict[int, float]] = {}
    for path, units in planner.graph.units.items():
        if len(units) < 2:
            continue
        order, change = planner.depth_order[path], {}
        for index in range(len(units)):
            others = [i for i in range(len(units)) if i != index]
            planner.depth_order[path] = [*others, index]
            plan = planner.plan({f"{path}.depth": len(units) - 1})
            change[index] = difference(run_active(planner.module, plan, inputs), full)
        planner.depth_order[path] = order
        changes[path] = change
    return changes

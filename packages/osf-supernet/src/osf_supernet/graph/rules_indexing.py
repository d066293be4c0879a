"""Rules of operators that pick, put and order entries along one axis."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from osf_supernet.graph.axes import Axis, freeze, unite
from osf_supernet.graph.propagation import (
    Label,
    Propagation,
    arguments_of,
    broadcast,
    rule,
    shape_of,
)
from osf_supernet.graph.rules_structure import argument

_BY_INDEX = "its entries are put at places given by index"


@rule("copy", "masked_scatter")
def _copy(p: Propagation, node: fx.Node) -> Any:
    if "masked" in str(node.target):
        return p.freeze_node(node, "it takes entries one after the other")
    label = p.label(node.args[0])
    broadcast([label, p.label(node.args[1])])
    return label


@rule("slice_scatter", "select_scatter")
def _scatter_part(p: Propagation, node: fx.Node) -> Any:
    label, source = p.label(node.args[0]), p.label(node.args[1])
    dim = argument(node, 2, "dim", 0) % len(label)
    freeze(label[dim], "a part of it is replaced")
    if len(source) == len(label):
        freeze(source[dim], "it replaces a part")
        del source[dim]
    broadcast([label[:dim] + label[dim + 1 :], source])
    return label


@rule("index_put", "_index_put_impl")
def _index_put(p: Propagation, node: fx.Node) -> Any:
    """`x[mask] = number` is elementwise; by numbers the axes that they count along must stay."""
    label, indices = p.label(node.args[0]), list(arguments_of(node)[1])
    values = p.label(node.args[2])
    used = [d for d, index in enumerate(indices) if index is not None]
    if any(indices[d].meta["val"].dtype in (torch.bool, torch.uint8) for d in used):
        if len(used) > 1 or any(axis.size != 1 for axis in values):
            return p.freeze_node(node, "assigning several values by a mask has no rule")
        mask = p.label(indices[used[0]])
        for one, two in zip(label[used[0] : used[0] + len(mask)], mask, strict=True):
            unite(one, two)
        return label
    if used != list(range(used[0], used[-1] + 1)):
        return p.freeze_node(node, "indexing by tensors that are not side by side has no rule")
    for dim in used:
        freeze(label[dim], _BY_INDEX)
    picked = broadcast([p.label(indices[d]) for d in used])
    broadcast([label[: used[0]] + picked + label[used[-1] + 1 :], values])
    return label


@rule("take_along_dim")
def _take_along(p: Propagation, node: fx.Node) -> Any:
    label, index = p.label(node.args[0]), p.label(node.args[1])
    dim = argument(node, 2, "dim")
    if dim is None:
        return p.freeze_node(node, "indexing a flattened tensor has no rule")
    dim %= len(label)
    freeze(label[dim], "its entries are looked up by index")
    picked = index[dim]
    label[dim], index[dim] = Axis(1), Axis(1)
    result = broadcast([label, index])
    result[dim] = picked
    return result


@rule("scatter", "scatter_add", "scatter_reduce")
def _scatter(p: Propagation, node: fx.Node) -> Label:
    label, dim = p.label(node.args[0]), int(arguments_of(node)[1])
    dim %= len(label)
    others = [p.label(other) for other in node.args[2:4] if isinstance(other, fx.Node)]
    for axes in (label, *(other for other in others if other)):
        freeze(axes[dim], _BY_INDEX)
    for other in others:
        for d, (one, two) in enumerate(zip(label, other, strict=bool(other))):
            if d != dim and one.size == two.size:
                unite(one, two)
            elif d != dim:
                freeze(one, "a part of it is put at places given by index")
                freeze(two, "it goes into a part")
    return label


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "argsort", "topk", "diff")
def _ordered(p: Propagation, node: fx.Node) -> Any:
    """Along one axis, whose entries must stay; of the others each index stands for itself."""
    name, label = str(node.target), p.label(node.args[0])
    if "diff" in name and any(isinstance(other, fx.Node) for other in node.args[1:]):
        return p.freeze_node(node, "differences with entries put before or behind have no rule")
    if not label:
        return p.freeze_node(node, "it orders a number")
    position = 2 if "topk" in name or "diff" in name else 1
    dim = argument(node, position, "dim", -1) % len(label)
    freeze(label[dim], "the result depends on the order of its entries")
    value = node.meta["val"]
    if isinstance(value, list | tuple):
        return [_with_size(label, dim, int(one.shape[dim])) for one in value]
    return _with_size(label, dim, shape_of(node)[dim])


def _with_size(label: Label, dim: int, size: int) -> Label:
    """The axes with the ordered one replaced, where it has another size now."""
    changed = [*label]
    if changed[dim].size != size:
        changed[dim] = Axis(size, "it is a part of an ordered axis")
    return changed

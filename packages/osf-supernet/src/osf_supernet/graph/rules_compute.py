"""Rules of operators that contract, normalize, attend and pool."""

from __future__ import annotations

from typing import Any

from torch import fx

from osf_supernet.graph.axes import Axis, atoms, freeze, mark, split_concat, split_product, unite
from osf_supernet.graph.propagation import (
    Label,
    Propagation,
    arguments_of,
    broadcast,
    contracted_letters,
    rule,
    shape_of,
)
from osf_supernet.graph.rules_structure import argument


@rule("linear")
def _linear(p: Propagation, node: fx.Node) -> Label:
    x, weight = p.label(node.args[0]), p.label(node.args[1])
    unite(x[-1], weight[-1])
    p.contract(node, (0, -1), (1, -1))
    if len(weight) == 1:
        return x[:-1]
    _unite_vectors(p, weight[0], *node.args[2:])
    return [*x[:-1], weight[0]]


def _unite_vectors(p: Propagation, axis: Axis, *vectors: Any) -> None:
    """Biases, factors and statistics (those that there are) have one entry per index of an axis."""
    for vector in vectors:
        if isinstance(vector, fx.Node):
            unite(axis, p.axis(vector, 0))


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def _matmul(p: Propagation, node: fx.Node) -> Label:
    return _multiply(p, node, 0, 1)


@rule("addmm", "baddbmm")
def _addmm(p: Propagation, node: fx.Node) -> Label:
    return broadcast([p.label(node.args[0]), _multiply(p, node, 1, 2)])


def _multiply(p: Propagation, node: fx.Node, left: int, right: int) -> Label:
    """Axes of a (batched) matrix product; batch axes broadcast."""
    a, b = p.label(node.args[left]), p.label(node.args[right])
    inner = -2 if len(b) > 1 else -1
    unite(a[-1], b[inner])
    p.contract(node, (left, -1), (right, inner))
    batch = broadcast([a[:-2], b[:-2]])
    rows = [a[-2]] if len(a) > 1 else []
    columns = [b[-1]] if len(b) > 1 else []
    if len(a) > 2 and len(b) > 2:
        _mark_attention(a, b)
    return batch + rows + columns


def _mark_attention(a: Label, b: Label) -> None:
    """Products of two batched activations are attention where a batch axis has heads in it."""
    heads = [axis.root() for axis in (*a[:-2], *b[:-2])]
    if len(a) == 3:
        heads = [axis for axis in heads if axis.joined == "product"]
    for axis in heads:
        mark(axis, "heads")
    if heads:
        mark(a[-1], "head_dim")


@rule("grouped_mm", "_grouped_mm", "grouped_mm_fallback")
def _grouped_multiply(p: Propagation, node: fx.Node) -> Any:
    """Rows of (n, k), sorted by their matrix, times that one of (groups, k, m)."""
    x, weight = p.label(node.args[0]), p.label(node.args[1])
    if (len(x), len(weight)) != (2, 3):
        return p.freeze_node(node, "this form of a grouped matrix product has no rule")
    freeze(weight[0], "its entries are looked up by index")
    unite(x[1], weight[1])
    p.contract(node, (0, 1), (1, 1))
    _unite_vectors(p, weight[2], argument(node, 3, "bias"))
    for axis in weight[1:]:
        mark(axis, "grouped")
    return [x[0], weight[2]]


@rule("bilinear")
def _bilinear(p: Propagation, node: fx.Node) -> Label:
    one, two, weight = (p.label(node.args[i]) for i in range(3))
    unite(one[-1], weight[1])
    unite(two[-1], weight[2])
    p.contract(node, (0, -1), (1, -1), (2, 1), (2, 2))
    _unite_vectors(p, weight[0], argument(node, 3, "bias"))
    return [*broadcast([one[:-1], two[:-1]]), weight[0]]


@rule("scaled_dot_product_attention")
def _attention(p: Propagation, node: fx.Node) -> Label:
    q, k, v = (p.label(node.args[i]) for i in range(3))
    if argument(node, 7, "enable_gqa", False):
        heads = split_product(q[-3], [k[-3].size, q[-3].size // k[-3].size])
        unite(heads[0], k[-3])
    else:
        unite(q[-3], k[-3])
    unite(k[-3], v[-3])
    for one, two in zip(q[:-3], k[:-3], strict=True):
        unite(one, two)
    unite(q[-1], k[-1])
    unite(k[-2], v[-2])
    mask = p.label(argument(node, 3, "attn_mask"))
    broadcast([[*q[:-1], k[-2]], mask])
    for axis in (q[-3], k[-3]):
        mark(axis, "heads")
        for inner in list(atoms(axis))[1:]:  # queries that share a key and value head
            mark(inner, "heads_per_group")
    for axis in (q[-1], v[-1]):
        mark(axis, "head_dim")
    if q[-1].size == v[-1].size:  # models keep one head size; two would need another integer
        unite(q[-1], v[-1])
    if argument(node, 6, "scale") is None and p.as_class:
        freeze(q[-1], "the attention scale is computed from it inside the operator")
    p.contract(node, (0, -1), (1, -1))
    return [*q[:-1], v[-1]]


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed_convolution(p: Propagation, node: fx.Node) -> Any:
    x, weight = p.label(node.args[0]), p.label(node.args[1])
    if argument(node, 6, "groups", 1) != 1:
        return p.freeze_node(node, "a transposed convolution of groups has no rule")
    unite(x[1], weight[0])
    p.contract(node, (0, 1), (1, 0))
    mark(weight[1], "conv")
    _unite_vectors(p, weight[1], argument(node, 2, "bias"))
    return [x[0], weight[1], *_run_along(x, weight, shape_of(node))]


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _convolution(p: Propagation, node: fx.Node) -> Any:
    x, weight = p.label(node.args[0]), p.label(node.args[1])
    if argument(node, 6, "transposed", False) is True:
        return p.freeze_node(node, "this form of a transposed convolution has no rule")
    position = 8 if "convolution" in str(node.target) else 6
    groups = int(argument(node, position, "groups", 1))
    shape = shape_of(node)
    if groups == 1:
        unite(x[1], weight[1])
        p.contract(node, (0, 1), (1, 1))
        mark(weight[0], "conv")
    else:
        outer, inner = split_product(x[1], [groups, x[1].size // groups])
        unite(inner, weight[1])
        unite(outer, split_product(weight[0], [groups, shape[1] // groups])[0])
        if len(shape) == 3:  # along a sequence, as in Mamba; in images it is one of many channels
            mark(outer, "conv_groups")
        p.contract(node, (1, 1))
    _unite_vectors(p, weight[0], argument(node, 2, "bias"))
    return [x[0], weight[0], *_run_along(x, weight, shape)]


def _run_along(x: Label, weight: Label, shape: tuple[int, ...]) -> Label:
    """The spatial axes of a convolution's result; its input's and kernel's must stay."""
    for axis in [*x[2:], *weight[2:]]:
        freeze(axis, "a convolution runs along it")
    return [Axis(size, "it is a spatial dimension") for size in shape[2:]]


@rule("_weight_norm")
def _weight_norm(p: Propagation, node: fx.Node) -> Label:
    """Left-out entries are zero and add nothing to the norms of what is kept."""
    label = p.label(node.args[0])
    broadcast([label, p.label(node.args[1])])
    return label


@rule("prelu")
def _prelu(p: Propagation, node: fx.Node) -> Label:
    x, weight = p.label(node.args[0]), p.label(node.args[1])
    if len(x) > 1:
        unite(x[1], weight[0])
    return x


@rule("glu")
def _glu(p: Propagation, node: fx.Node) -> Label:
    x = p.label(node.args[0])
    dim = argument(node, 1, "dim", -1)
    one, two = split_concat(x[dim], [x[dim].size // 2] * 2)
    unite(one, two)
    x[dim] = one
    return x


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(p: Propagation, node: fx.Node) -> Any:
    x = p.label(node.args[0])
    _unite_vectors(p, x[1], *node.args[1:5])
    mark(x[1], "batch_norm")
    return x


@rule("layer_norm", "rms_norm")
def _layer_norm(p: Propagation, node: fx.Node) -> Label:
    x, dims = p.label(arguments_of(node)[0]), len(arguments_of(node)[1])
    for other in node.args[2:4]:
        if isinstance(other, fx.Node):
            broadcast([x[-dims:], p.label(other)])
    p.normalize(node, 0, range(-dims, 0))
    return x


@rule("group_norm")
def _group_norm(p: Propagation, node: fx.Node) -> Label:
    x = p.label(node.args[0])
    _unite_vectors(p, x[1], *node.args[2:4])
    groups = int(arguments_of(node)[1])
    _, inner = split_product(x[1], [groups, x[1].size // groups])
    freeze(inner, "group normalization takes statistics over it")
    return x


@rule("mean", "var", "std", "linalg_vector_norm", "norm", "amax", "amin", "logsumexp", "var_mean")
def _statistics(p: Propagation, node: fx.Node) -> Any:
    label = p.label(node.args[0])
    position = 2 if "norm" in str(node.target) else 1
    dims = _dims(argument(node, position, "dim"), len(label))
    p.normalize(node, 0, dims)
    if isinstance(node.meta["val"], list | tuple):
        return p.freeze_node(node, "a statistic with several results has no rule")
    return _reduce_dims(label, dims, len(shape_of(node)))


@rule("sum")
def _sum(p: Propagation, node: fx.Node) -> Label:
    label = p.label(node.args[0])
    dims = _dims(argument(node, 1, "dim"), len(label))
    p.normalize(node, 0, dims)  # nothing weighs the summands: the oracle must leave some out
    return _reduce_dims(label, dims, len(shape_of(node)))


def _dims(dims: Any, rank: int) -> list[int]:
    if dims is None or dims == []:
        return list(range(rank))
    return [d % rank for d in ([dims] if isinstance(dims, int) else dims)]


def _reduce_dims(label: Label, dims: list[int], rank: int) -> Label:
    if rank == len(label):
        return [Axis(1) if d in dims else axis for d, axis in enumerate(label)]
    return [axis for d, axis in enumerate(label) if d not in dims]


@rule("softmax", "log_softmax", "_softmax", "argmax", "argmin", "max", "min", "any", "all")
def _along(p: Propagation, node: fx.Node) -> Any:
    label = p.label(node.args[0])
    if len(node.args) > 1 and isinstance(node.args[1], fx.Node):
        return broadcast([label, p.label(node.args[1])])
    dims = _dims(argument(node, 1, "dim"), len(label))
    if "softmax" in str(node.target):
        p.normalize(node, 0, dims, "softmax")
        return label
    for dim in dims:
        freeze(label[dim], "a softmax or a maximum is taken over it")
    if isinstance(node.meta["val"], list | tuple):
        return [_reduce_dims(label, dims, len(value.shape)) for value in node.meta["val"]]
    return _reduce_dims(label, dims, len(shape_of(node)))


_POOLS = [f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg") for n in (1, 2, 3)]
_RESIZES = [
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"),
    *("upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
]


@rule(*_POOLS, *_RESIZES)
def _pool(p: Propagation, node: fx.Node) -> Label:
    label, shape = p.label(node.args[0]), shape_of(node)
    name = str(node.target)
    spatial = next((int(c) for c in name.split(".")[1][::-1] if c.isdigit()), 2)
    for axis in label[-spatial:]:
        freeze(axis, "pooling or resizing runs along it")
    fixed = [Axis(size, "it is a spatial dimension") for size in shape[-spatial:]]
    return [*label[:-spatial], *fixed]


@rule("einsum")
def _einsum(p: Propagation, node: fx.Node) -> Any:
    equation = str(node.args[0]).replace(" ", "")
    operands = [p.label(item) for item in arguments_of(node)[1]]
    if "." in equation or "->" not in equation:
        return p.freeze_node(node, "an einsum with ... or without -> has no rule")
    terms, right = equation.split("->")[0].split(","), equation.split("->")[1]
    letters: dict[str, Axis] = {}
    for term, label in zip(terms, operands, strict=True):
        for letter, axis in zip(term, label, strict=True):
            if letter in letters and letters[letter].size != 1:
                unite(letters[letter], axis)
            else:
                letters[letter] = axis
    summed = contracted_letters(equation)
    for letter in set(letters) - set(right) - set(summed):
        freeze(letters[letter], "an einsum sums over it")
    places = [(k, term.index(x)) for k, term in enumerate(terms) for x in summed]
    p.contract(node, *places)
    shared = [x for x in right if all(x in term for term in terms)]
    weights = [
        term
        for term, item in zip(terms, arguments_of(node)[1], strict=True)
        if item.name in p.trace.parameters
    ]
    if summed and shared and weights:  # a matrix for each of several experts or frequencies
        for letter in set(weights[0]) - set(shared):
            mark(letters[letter], "grouped")
    elif summed and shared and all(len(label) > 2 for label in operands):
        for letter in shared:
            mark(letters[letter], "heads")
        for letter in summed:
            mark(letters[letter], "head_dim")
    return [letters[letter] for letter in right]

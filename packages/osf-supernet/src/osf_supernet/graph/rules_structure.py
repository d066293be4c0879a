"""Rules of operators that move, cut and join axes, and of those that make tensors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import fx

from osf_supernet.graph.axes import (
    Axis,
    concat,
    freeze,
    product,
    split_concat,
    split_product,
    unite,
)
from osf_supernet.graph.propagation import (
    Label,
    Propagation,
    arguments_of,
    broadcast,
    fresh,
    frozen_like,
    reshape,
    rule,
    shape_of,
)
from osf_supernet.trace.tracing import module_path


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An operator argument, given by position or keyword."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


@rule(
    *("pointwise", "where", "masked_fill", "__and__", "__or__", "__xor__", "hardswish"),
    *("log_sigmoid", "true_divide", "floor_divide", "rsub", "special_expit", "polar"),
    *("multiply", "subtract", "divide", "absolute", "negative", "greater", "less"),
)
def _pointwise(p: Propagation, node: fx.Node) -> Label:
    return broadcast([p.label(a) for a in node.all_input_nodes])


@rule(
    *("to", "_to_copy", "clone", "contiguous", "alias", "detach", "dropout", "feature_dropout"),
    *("type_as", "lift_fresh_copy", "positive", "alpha_dropout", "detach_copy"),
    *("view_as_real_copy", "_conj", "resolve_conj", "real"),
    *("full_like", "zeros_like", "ones_like", "empty_like", "fill", "zero"),
    *("randn_like", "rand_like", "bernoulli"),
)
def _same(p: Propagation, node: fx.Node) -> Label:
    return p.label(node.args[0])


@rule(
    *("zeros", "ones", "full", "empty", "scalar_tensor"),
    *("new_zeros", "new_ones", "new_full", "new_empty"),
)
def _uniform(p: Propagation, node: fx.Node) -> Label:
    return fresh(shape_of(node))  # the same value everywhere: any part of it will do


@rule("arange", "linspace", "tril_indices", "triu_indices", "eye", "randn", "rand")
def _positions(p: Propagation, node: fx.Node) -> Any:
    return frozen_like(node, "it meets a range of positions made in the forward")


@rule("_assert_tensor_metadata", "_assert_async", "sym_size")
def _nothing(p: Propagation, node: fx.Node) -> Label:
    return []


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "_reshape_alias", "view_copy")
def _view(p: Propagation, node: fx.Node) -> Label:
    """A view; where one module splits several last axes alike, one integer says how.

    Queries, keys and values are cut into heads by the same attribute, so that a value's head
    size cannot change alone.
    """
    before = p.label(node.args[0])
    after = reshape(before, shape_of(node))
    cut = after[-2:]
    if p.as_class and len(after) > len(before) > 1 and before[-1].size == cut[0].size * cut[1].size:
        key = (module_path(node), cut[0].size, cut[1].size)
        for one, two in zip(p.cuts.setdefault(key, cut), cut, strict=True):
            if one.root().joined is None and two.root().joined is None:
                unite(one, two)
    return after


@rule("reshape_as", "view_as")
def _view_as(p: Propagation, node: fx.Node) -> Label:
    after = reshape(p.label(node.args[0]), shape_of(node))
    return broadcast([after, p.label(node.args[1])])


@rule("squeeze", "unsqueeze")
def _units(p: Propagation, node: fx.Node) -> Label:
    return reshape(p.label(node.args[0]), shape_of(node))


@rule("permute")
def _permute(p: Propagation, node: fx.Node) -> Label:
    label = p.label(node.args[0])
    return [label[dim] for dim in arguments_of(node)[1]]


@rule("transpose", "swapaxes", "t", "numpy_T", "mT")
def _transpose(p: Propagation, node: fx.Node) -> Label:
    label = p.label(node.args[0])
    if len(label) < 2:
        return label
    one, two = (argument(node, 1, "dim0", -2), argument(node, 2, "dim1", -1))
    label[one], label[two] = label[two], label[one]
    return label


@rule("movedim")
def _movedim(p: Propagation, node: fx.Node) -> Label:
    label = p.label(node.args[0])
    source, target = ([a] if isinstance(a, int) else list(a) for a in arguments_of(node)[1:3])
    moved = {t % len(label): label[s] for s, t in zip(source, target, strict=True)}
    rest = iter([a for d, a in enumerate(label) if d not in {s % len(label) for s in source}])
    return [moved[d] if d in moved else next(rest) for d in range(len(label))]


@rule("expand", "expand_as", "broadcast_to")
def _expand(p: Propagation, node: fx.Node) -> Label:
    shape = shape_of(node)
    label = p.label(node.args[0])
    label = [Axis(1)] * (len(shape) - len(label)) + label
    other = p.label(node.args[1]) if isinstance(node.args[1], fx.Node) else fresh(shape)
    return [
        old if old.size == size else new for old, new, size in zip(label, other, shape, strict=True)
    ]


@rule("repeat", "tile")
def _repeat(p: Propagation, node: fx.Node) -> Label:
    counts: list[int] = list(arguments_of(node)[1])
    label = p.label(node.args[0])
    counts = [1] * (len(label) - len(counts)) + counts
    label = [Axis(1)] * (len(counts) - len(label)) + label
    return [product([Axis(n), axis]) for n, axis in zip(counts, label, strict=True)]


@rule("repeat_interleave")
def _repeat_interleave(p: Propagation, node: fx.Node) -> Any:
    count, dim = node.args[1], argument(node, 2, "dim")
    if not isinstance(count, int) or dim is None:
        return p.freeze_node(node, "repeat_interleave by a tensor has no rule")
    label = p.label(node.args[0])
    label[dim] = product([label[dim], Axis(count)])
    return label


@rule("cat", "concat", "concatenate")
def _cat(p: Propagation, node: fx.Node) -> Label:
    labels = [p.label(item) for item in arguments_of(node)[0]]
    labels = [label for label in labels if label and all(axis.size for axis in label)]
    dim = argument(node, 1, "dim", 0) % len(labels[0])
    result = list(labels[0])
    for label in labels[1:]:
        result = [
            a if d == dim else broadcast([[a], [b]])[0]
            for d, (a, b) in enumerate(zip(result, label, strict=True))
        ]
    result[dim] = concat([label[dim] for label in labels])
    return result


@rule("stack")
def _stack(p: Propagation, node: fx.Node) -> Label:
    items: list[Any] = list(arguments_of(node)[0])
    label = broadcast([p.label(item) for item in items])
    dim = argument(node, 1, "dim", 0) % (len(label) + 1)
    label.insert(dim, Axis(len(items), "its entries are single values with different roles"))
    return label


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def _split(p: Propagation, node: fx.Node) -> list[Label]:
    label = p.label(node.args[0])
    dim = argument(node, 2, "dim", 0)
    sizes = [int(value.shape[dim]) for value in node.meta["val"]]
    parts = split_concat(label[dim], sizes)
    dim %= len(label)
    return [[part if d == dim else a for d, a in enumerate(label)] for part in parts]


@rule("unbind")
def _unbind(p: Propagation, node: fx.Node) -> list[Label]:
    label = p.label(node.args[0])
    dim = argument(node, 1, "dim", 0) % len(label)
    freeze(label[dim], "its entries are accessed one by one")
    return [label[:dim] + label[dim + 1 :] for _ in node.meta["val"]]


@rule("select")
def _select(p: Propagation, node: fx.Node) -> Label:
    label = p.label(node.args[0])
    dim = int(arguments_of(node)[1]) % len(label)
    freeze(label[dim], "one of its entries is picked by number")
    return label[:dim] + label[dim + 1 :]


@rule("slice", "narrow")
def _slice(p: Propagation, node: fx.Node) -> Label:
    label = p.label(node.args[0])
    dim = argument(node, 1, "dim", 0) % len(label)
    size = label[dim].size
    if "slice" in str(node.target):
        bounds = (argument(node, i, name) for i, name in enumerate(("start", "end", "step"), 2))
        start, end, step = slice(*bounds).indices(size)
    else:
        start, step = int(arguments_of(node)[2]), 1
        end = start + int(arguments_of(node)[3])
    if (start, end, step) == (0, size, 1):
        return label
    if end <= start:  # what remains behind a whole rotary part
        label[dim] = Axis(0)
        return label
    if step > 1 and start < step and size % step == 0 and shape_of(node)[dim] == size // step:
        label[dim], inner = split_product(label[dim], [size // step, step])
        freeze(inner, "its entries are interleaved")
        return label
    if step != 1 or size == 1:
        freeze(label[dim], "every n-th of its entries is taken")
        label[dim] = Axis(shape_of(node)[dim], "it is every n-th entry of an axis")
        return label
    sizes = [b - a for a, b in pairwise([0, start, end, size]) if b > a]
    parts = split_concat(label[dim], sizes)
    label[dim] = parts[1 if start else 0]
    return label


@rule("index")
def _index(p: Propagation, node: fx.Node) -> Any:
    label, indices = p.label(arguments_of(node)[0]), list(arguments_of(node)[1])
    used = [d for d, index in enumerate(indices) if index is not None]
    for dim in used:
        freeze(label[dim], "its entries are looked up by index")
    if used != list(range(used[0], used[-1] + 1)):
        return p.freeze_node(node, "indexing by tensors that are not side by side has no rule")
    if any(indices[d].meta["val"].dtype in (torch.bool, torch.uint8) for d in used):
        return p.freeze_node(node, "indexing by a mask has no rule")
    picked = broadcast([p.label(indices[d]) for d in used])
    return label[: used[0]] + picked + label[used[-1] + 1 :]


@rule("index_select")
def _index_select(p: Propagation, node: fx.Node) -> Label:
    label, dim = p.label(arguments_of(node)[0]), int(arguments_of(node)[1])
    freeze(label[dim], "its entries are looked up by index")
    label[dim] = p.axis(node.args[2], 0)
    return label


@rule("gather")
def _gather(p: Propagation, node: fx.Node) -> Label:
    label, index = p.label(node.args[0]), p.label(node.args[2])
    dim = int(arguments_of(node)[1]) % len(label)
    freeze(label[dim], "its entries are looked up by index")
    for d, (one, two) in enumerate(zip(label, index, strict=True)):
        if d != dim and one.size == two.size:
            unite(one, two)
        elif d != dim:
            freeze(one, "gather takes a part of it")
    return index


@rule("index_add", "index_copy")
def _index_add(p: Propagation, node: fx.Node) -> Label:
    label, source = p.label(node.args[0]), p.label(node.args[3])
    dim = int(arguments_of(node)[1]) % len(label)
    freeze(source[dim], "its entries are put at places given by index")
    freeze(label[dim], "its entries are put at places given by index")
    rest = broadcast([label[dim + 1 :], source[dim + 1 :]])
    return [*broadcast([label[:dim], source[:dim]]), label[dim], *rest]


@rule("embedding")
def _embedding(p: Propagation, node: fx.Node) -> Label:
    weight = p.label(node.args[0])
    freeze(weight[0], "its entries are looked up by index")
    return [*p.label(node.args[1]), weight[1]]


@rule("roll", "flip")
def _reorder(p: Propagation, node: fx.Node) -> Label:
    label = p.label(node.args[0])
    dims = arguments_of(node)[2] if len(node.args) > 2 else arguments_of(node)[1]
    for dim in [dims] if isinstance(dims, int) else list(dims):
        freeze(label[dim], "its entries are moved by position")
    return label


@rule("pad", "constant_pad_nd")
def _pad(p: Propagation, node: fx.Node) -> Label:
    label, shape = p.label(node.args[0]), shape_of(node)
    for dim, size in enumerate(shape):
        if label[dim].size != size:
            freeze(label[dim], "it is padded")
            label[dim] = Axis(size, "it is padded")
    return label


@rule("view_as_complex", "view_as_real")
def _complex(p: Propagation, node: fx.Node) -> Label:
    label, reason = p.label(node.args[0]), "it is a real and an imaginary part"
    if "real" in str(node.target):
        return [*label, Axis(2, reason)]
    freeze(label[-1], reason)
    return label[:-1]


@rule(
    *("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft"),
    *("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2"),
    *("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn"),
)
def _fourier(p: Propagation, node: fx.Node) -> Label:
    label, shape = p.label(node.args[0]), shape_of(node)
    kind = str(node.target).split(".")[1][-1]
    default = {"2": (-2, -1), "n": tuple(range(len(label)))}.get(kind, -1)
    dims = argument(node, 2, "dim")
    dims = default if dims is None else dims
    for dim in [dims] if isinstance(dims, int) else list(dims):
        freeze(label[dim], "a Fourier transform runs along it")
        if label[dim].size != shape[dim]:
            label[dim] = Axis(shape[dim], "a Fourier transform runs along it")
    return label

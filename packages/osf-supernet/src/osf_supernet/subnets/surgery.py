"""Where weights are cut: a module with fewer rows, smaller integers and shorter lists.

A `Surgery` says what is kept. `active` runs the module itself that way, on views of its tensors,
and restores it afterwards; `extract_module` returns a plain smaller copy.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.counting import storage_key
from osf_supernet.graph.graph import named_tensors
from osf_supernet.trace.tracing import forget_cached

AxisKeep = Sequence[int] | None  # kept indices of an axis; None keeps all


@dataclass(frozen=True, kw_only=True)
class Surgery:
    """What is kept of a module.

    Attributes:
        keep: parameter or buffer name → for each axis the kept indices, or None for all.
            All names of a tied tensor follow from any one of them.
        attributes: `module.path.attribute` → the value it has in the smaller module.
        items: path of a `ModuleList` or `Sequential` → kept positions, ascending.
        forward: what is called in place of the module's own forward, with the module first.
    """

    keep: Mapping[str, tuple[AxisKeep, ...]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    forward: Callable[..., Any] | None = None


@dataclass
class ActiveReport:
    """What running a smaller network cost in memory: 0 bytes where every slice is a view."""

    copied_bytes: int = 0


@contextmanager
def active(module: nn.Module, surgery: Surgery) -> Iterator[ActiveReport]:
    """Run `module` as the smaller network, on views of its weights.

    Parameters and buffers become views (a copy only where the kept indices are not one
    stride; the report says how many bytes), so gradients land in the full parameters. The
    previous state is restored on the way out, also after an exception.

    Args:
        module: the full module; it is changed inside the block and restored after it.
        surgery: what to keep.

    Yields:
        A report with the bytes that had to be copied.

    Raises:
        KeyError: a name is not one of the module's.
        ValueError: the kept indices do not fit the tensor or list they are for.
        RuntimeError: the module runs as a smaller one already.
    """
    report = ActiveReport()
    write_back: list[_Cutting] = []

    def view(tensor: Tensor, keep: tuple[AxisKeep, ...], is_buffer: bool) -> Tensor:
        piece = take(tensor, keep)
        if not shares_memory(piece, tensor):
            report.copied_bytes += piece.numel() * piece.element_size()
            if is_buffer:
                write_back.append((tensor, keep, piece))
        return piece

    with _patch(module, surgery, view, write_back):
        yield report


@contextmanager
def active_for_training(module: nn.Module, surgery: Surgery) -> Iterator[None]:
    """Like `active`, with less work in backward: nothing of full size is made for a small subnet.

    The pieces are leaves, whose gradients are added to the full parameters' as they come. Hooks
    on the parameters do not fire for what is cut, and `torch.autograd.grad` does not reach it:
    use `active` where it matters.
    """
    write_back: list[_Cutting] = []

    def leaf(tensor: Tensor, keep: tuple[AxisKeep, ...], is_buffer: bool) -> Tensor:
        piece = take(tensor.detach(), keep)
        if is_buffer:
            if not shares_memory(piece, tensor):
                write_back.append((tensor, keep, piece))
        elif tensor.requires_grad:
            hooked: Any = piece.requires_grad_()
            hooked.register_post_accumulate_grad_hook(partial(_add_gradient, tensor, keep))
        return piece

    with _patch(module, surgery, leaf, write_back):
        yield


@torch.no_grad()
def _add_gradient(tensor: Tensor, keep: tuple[AxisKeep, ...], piece: Tensor) -> None:
    """Add a piece's gradient to the tensor's, and clear it."""
    assert piece.grad is not None
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    total = take(tensor.grad, keep)
    total += piece.grad
    if not shares_memory(total, tensor.grad):
        put(tensor.grad, keep, total)
    piece.grad = None


def extract_module(module: nn.Module, surgery: Surgery) -> nn.Module:
    """A plain smaller copy of `module`: same class, separate memory, ties kept.

    Args:
        module: the full module, unchanged afterwards.
        surgery: what to keep.

    Raises:
        KeyError: a name is not one of the module's.
        ValueError: the kept indices do not fit the tensor or list they are for.
        RuntimeError: the module runs as a smaller one already.
    """
    made: dict[tuple[Hashable, bool], Tensor] = {}

    def copy_piece(tensor: Tensor, keep: tuple[AxisKeep, ...], is_buffer: bool) -> Tensor:
        key = (storage_key(tensor), is_buffer)
        if key not in made:
            piece = take(tensor.detach(), keep).clone(memory_format=torch.contiguous_format)
            made[key] = piece if is_buffer else nn.Parameter(piece, tensor.requires_grad)
        return made[key]

    with _patch(module, surgery, copy_piece):
        return copy_module(module)


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy, also of a module that holds what autograd computed: that becomes plain values.

    Tensors that share their memory are one tensor in the copy.
    """
    memo: dict[int, Any] = {}
    made: dict[tuple[Hashable, bool], Tensor] = {}
    for child in module.modules():
        for leaf in pytree.tree_leaves(list(vars(child).values())):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                memo[id(leaf)] = leaf.detach().clone()
        for tensor in (*child._parameters.values(), *child._buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                key = (storage_key(tensor), isinstance(tensor, nn.Parameter))
                if key not in made:
                    made[key] = copy.deepcopy(tensor)
                memo[id(tensor)] = made[key]
    return copy.deepcopy(module, memo)


def take(tensor: Tensor, keep: tuple[AxisKeep, ...]) -> Tensor:
    """The kept part of a tensor: a view where every axis keeps a contiguous run."""
    for axis, kept in enumerate(keep):
        if kept is None:
            continue
        run = _as_run(kept)
        if run is not None:
            tensor = tensor.narrow(axis, run.start, len(run))
        else:
            index = torch.as_tensor(list(kept), dtype=torch.long, device=tensor.device)
            tensor = tensor.index_select(axis, index)
    return tensor


def put(tensor: Tensor, keep: tuple[AxisKeep, ...], piece: Tensor) -> None:
    """Write `piece` back to the kept part of `tensor`, in place."""
    grids = torch.meshgrid(
        *(
            torch.as_tensor(
                list(range(size) if kept is None else kept), dtype=torch.long, device=tensor.device
            )
            for kept, size in zip(keep, tensor.shape, strict=True)
        ),
        indexing="ij",
    )
    with torch.no_grad():
        tensor[grids] = piece


def shares_memory(piece: Tensor, tensor: Tensor) -> bool:
    """Whether one tensor is a view of the other's storage."""
    return piece.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def _as_run(kept: Sequence[int]) -> range | None:
    """The contiguous ascending run that `kept` is, or None."""
    if isinstance(kept, range):
        return kept if kept.step == 1 else None
    if len(kept) and list(kept) == list(range(kept[0], kept[0] + len(kept))):
        return range(kept[0], kept[0] + len(kept))
    return None


_Cut = Callable[[Tensor, tuple[AxisKeep, ...], bool], Tensor]
_Cutting = tuple[Tensor, tuple[AxisKeep, ...], Tensor]  # a tensor, what is kept of it, the piece
_BUSY: WeakSet[nn.Module] = WeakSet()
_LOCK = threading.Lock()


@contextmanager
def _patch(
    module: nn.Module, surgery: Surgery, cut: _Cut, write_back: Iterable[_Cutting] = ()
) -> Iterator[None]:
    """The module with tensors cut by `cut`, attributes set and lists shortened."""
    undo: list[Callable[[], None]] = []
    modules = set(module.modules())
    with _LOCK:
        require_inactive(module)
        _BUSY.update(modules)
    try:
        _forget_cached(module, undo)
        _cut_tensors(module, surgery.keep, cut, undo)
        for path, value in surgery.attributes.items():
            owner_path, _, name = path.rpartition(".")
            _set_attribute(_submodule(module, owner_path), name, value, undo)
        lists = [(_submodule(module, path), kept) for path, kept in surgery.items.items()]
        for owner, kept in lists:
            _shorten(owner, kept, undo)
        if surgery.forward is not None:
            _replace_forward(module, surgery.forward, undo)
        yield
    finally:
        for tensor, kept_axes, piece in write_back:  # running statistics survive the block
            put(tensor, kept_axes, piece)
        for step in reversed(undo):
            step()
        with _LOCK:
            _BUSY.difference_update(modules)


def _replace_forward(
    module: nn.Module, forward: Callable[..., Any], undo: list[Callable[[], None]]
) -> None:
    """Let a call of the module run something else on it."""
    own = {name: vars(module)[name] for name in ("forward",) if name in vars(module)}

    def restore() -> None:
        vars(module).pop("forward", None)
        vars(module).update(own)

    undo.append(restore)
    vars(module)["forward"] = partial(forward, module)


def _forget_cached(module: nn.Module, undo: list[Callable[[], None]]) -> None:
    """Without what modules computed from the full weights, which they have again afterwards."""
    undo += [
        partial(_put_attributes, child, dict(vars(child)))
        for child in module.modules()
        if type(child).train is not nn.Module.train
    ]
    forget_cached(module)


def _put_attributes(owner: nn.Module, before: dict[str, Any]) -> None:
    """Attributes as they were; the mode is the user's to change."""
    vars(owner).update(before | {"training": owner.training})


def require_inactive(module: nn.Module) -> None:
    """Refuse a module that runs as a smaller one already.

    Raises:
        RuntimeError: it runs as a smaller one, or a part of it does.
    """
    if not _BUSY.isdisjoint(module.modules()):
        raise RuntimeError(
            f"{type(module).__name__} runs as a smaller network already: leave that `active` or "
            "`training` block first (blocks do not nest; threads need a copy of the module each)"
        )


def _cut_tensors(
    module: nn.Module,
    keep: Mapping[str, tuple[AxisKeep, ...]],
    cut: _Cut,
    undo: list[Callable[[], None]],
) -> None:
    """Replace every tensor named in `keep`, under all of its names."""
    named = named_tensors(module)
    wanted: dict[Hashable, tuple[AxisKeep, ...]] = {}
    for name, axes in keep.items():
        if name not in named:
            raise KeyError(f"keep names {name!r}, which is no parameter or buffer of the module")
        _check_axes(name, named[name], axes)
        wanted.setdefault(storage_key(named[name]), axes)
    pieces: dict[int, tuple[Tensor, tuple[AxisKeep, ...]]] = {}
    for tensor in named.values():
        kept = wanted.get(storage_key(tensor)) if id(tensor) not in pieces else None
        if kept is not None:
            pieces[id(tensor)] = cut(tensor, kept, not isinstance(tensor, nn.Parameter)), kept
    tables: list[dict[str, Any]] = []
    for owner in module.modules():
        tables += owner._parameters, owner._buffers
    for table in tables:
        for name, current in list(table.items()):
            if id(current) in pieces:
                piece, axes = pieces[id(current)]
                undo.append(partial(_restore, table, name, current, axes, piece))
                table[name] = piece


def _restore(
    table: dict[str, Any], name: str, full: Tensor, keep: tuple[AxisKeep, ...], piece: Tensor
) -> None:
    """Put the full tensor back, with what a forward assigned to a buffer in the piece's place."""
    assigned = table.get(name)
    if (
        isinstance(assigned, Tensor)
        and assigned is not piece
        and assigned.shape == piece.shape
        and not isinstance(full, nn.Parameter)
    ):
        put(full, keep, assigned.detach())
    table[name] = full


def _check_axes(name: str, tensor: Tensor, axes: tuple[AxisKeep, ...]) -> None:
    """Refuse kept indices that do not fit the tensor."""
    if len(axes) != tensor.dim():
        raise ValueError(
            f"keep[{name!r}] must have one entry per axis: expected {tensor.dim()}, got {len(axes)}"
        )
    for axis, (kept, size) in enumerate(zip(axes, tensor.shape, strict=True)):
        if kept is not None and len(kept) and not (min(kept) >= 0 and max(kept) < size):
            raise ValueError(
                f"keep[{name!r}] axis {axis} must lie in 0..{size - 1}, "
                f"got {min(kept)}..{max(kept)}"
            )


def _submodule(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise KeyError(f"surgery names {path!r}, which is no submodule: {error}") from error


def _set_attribute(owner: nn.Module, name: str, value: Any, undo: list[Callable[[], None]]) -> None:
    """Set a plain instance attribute, remembering the old one."""
    if name not in vars(owner):
        raise KeyError(f"{type(owner).__name__} has no instance attribute {name!r}")
    old = vars(owner)[name]
    undo.append(lambda: vars(owner).update({name: old}))
    vars(owner)[name] = value


def _shorten(owner: nn.Module, kept: tuple[int, ...], undo: list[Callable[[], None]]) -> None:
    """Leave only the kept positions of a list of modules; numbers close up, names stay."""
    if not isinstance(owner, nn.ModuleList | nn.Sequential):
        raise ValueError(f"items must name a ModuleList or Sequential, got {type(owner).__name__}")
    old = owner._modules
    entries = list(old.items())
    if list(kept) != sorted(set(kept)) or (kept and not 0 <= kept[0] <= kept[-1] < len(entries)):
        raise ValueError(
            f"kept positions must ascend within 0..{len(entries) - 1}, got {tuple(kept)}"
        )
    numbered = all(name == str(position) for position, (name, _) in enumerate(entries))
    chosen = [entries[position] for position in kept]
    undo.append(lambda: setattr(owner, "_modules", old))
    owner._modules = {
        str(position) if numbered else name: child for position, (name, child) in enumerate(chosen)
    }

"""Sums over segments and gathers from them, with their closed-form gradients.

B batch, L tokens, D width, N = B L.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from dtp_pooling.pooling.segment_plan import SegmentPlan, is_exported

_PART = 64  # rows added one after another; longer segments are sums of such sums


def segment_sum(flat: Tensor, slot: Tensor, sizes: Tensor) -> Tensor:
    """(slots, D) sums of the rows of `flat` (N, D) with equal `slot`; the same bits every run.

    `sizes` says how often each slot occurs. On CPU rows are added in order, those of long segments
    in parts, which keeps rounding small; elsewhere `index_add_` would add atomically in any order,
    so `slot` must not decrease.
    """
    if flat.device.type != "cpu":
        return _reduce(flat, sizes)
    known = not torch.compiler.is_compiling() and not is_exported() and sizes.numel() > 0
    if known and int(sizes.max()) > _PART:
        return _sum_parts(flat, slot, sizes)
    sums = flat.new_zeros(sizes.numel(), flat.shape[1])
    return sums.index_add_(0, slot, flat)


def _reduce(flat: Tensor, sizes: Tensor) -> Tensor:
    """`segment_sum` of rows in the order of their slots, one thread for each segment."""
    return torch.segment_reduce(flat, "sum", lengths=sizes, unsafe=True, initial=0.0)


def _sum_parts(flat: Tensor, slot: Tensor, sizes: Tensor) -> Tensor:
    """`segment_sum` by way of the sums of at most `_PART` rows each, in any order of slots."""
    if bool((slot[1:] < slot[:-1]).any()):
        slot, order = slot.sort(stable=True)
        flat = flat.index_select(0, order)
    first = sizes.cumsum(0) - sizes
    place = torch.arange(len(slot)) - first[slot]  # of each row in its segment
    begins = place % _PART == 0
    part = begins.cumsum(0) - 1
    sums = segment_sum(flat, part, torch.bincount(part))
    slot = slot[begins]
    return segment_sum(sums, slot, torch.bincount(slot, minlength=sizes.numel()))


def sum_segments(h: Tensor, plan: SegmentPlan, mean: bool) -> tuple[Tensor, Tensor]:
    """`PoolSegments` in plain operators, without the gradient to boundaries."""
    values, sizes = _sum_wide(h, plan, mean)
    return values.to(h.dtype), sizes


def _sum_wide(h: Tensor, plan: SegmentPlan, mean: bool) -> tuple[Tensor, Tensor]:
    """(slots, D) sums or means in at least float32 and (slots,) sizes of tokens (B, L, D)."""
    wide = torch.promote_types(h.dtype, torch.float32)
    sizes = torch.zeros(plan.total, dtype=torch.long, device=h.device)
    sizes.index_add_(0, plan.slot, torch.ones_like(plan.slot))
    values = segment_sum(h.flatten(0, 1).to(wide), plan.slot, sizes)
    return values.div_(sizes.clamp(min=1)[:, None]) if mean else values, sizes


class PoolSegments(torch.autograd.Function):
    """Sum or mean of every slot, with the closed-form gradient to tokens and boundaries.

    The gradient that arrives for spare slots is zero, so dropped tokens get none. A gradient of
    the gradient (`create_graph=True`) is that of `_pool_softly`, the formula written out.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, boundaries: Tensor, plan: SegmentPlan, mean: bool
    ) -> tuple[Tensor, Tensor]:
        """(slots, D) values and (slots,) sizes of tokens (B, L, D)."""
        values, sizes = _sum_wide(h, plan, mean)
        straight_through = ctx.needs_input_grad[1]
        means = values if straight_through and mean else None
        needed = (h, boundaries) if straight_through else (None, None)
        ctx.save_for_backward(sizes, *needed, means)
        ctx.plan, ctx.mean, ctx.shape, ctx.dtype = plan, mean, h.shape, h.dtype
        ctx.mark_non_differentiable(sizes)
        return values.to(h.dtype), sizes

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, _: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of tokens (B, L, D) and boundaries (B, L)."""
        sizes, h, boundaries, means = ctx.saved_tensors
        plan: SegmentPlan = ctx.plan
        if h is not None and torch.is_grad_enabled():  # a graph of the gradient is wanted
            # views, because the boundaries may themselves be a function of h
            inputs = h.view_as(h), boundaries.view_as(boundaries)
            values = _pool_softly(*inputs, plan, sizes, ctx.mean)
            wanted = inputs if ctx.needs_input_grad[0] else inputs[1:]
            grads = torch.autograd.grad(values, wanted, grad, create_graph=True)
            return grads[0] if ctx.needs_input_grad[0] else None, grads[-1], None, None
        grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
        if ctx.mean:
            grad = grad / sizes.clamp(min=1)[:, None]
        per_token = _rows_of_slots(grad, plan.slot)  # (B * L, D)
        grad_boundaries = None
        if h is not None:
            change = _rowwise_dot(per_token, h.reshape(per_token.shape))  # dc_t, (B * L,)
            if means is not None:
                change -= _rowwise_dot(grad, means).index_select(0, plan.slot)
            change = change.masked_fill(~plan.kept, 0).view(ctx.shape[:2])
            later = change.flip(1).cumsum(1).flip(1)  # (B, L) sum over t >= i
            grad_boundaries = torch.cat([later[:, 1:], later.new_zeros(len(later), 1)], 1)
            grad_boundaries = grad_boundaries[:, : ctx.shape[1]].to(boundaries.dtype)
        grad_h = per_token.view(ctx.shape).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return grad_h, grad_boundaries, None, None


def _pool_softly(
    h: Tensor, boundaries: Tensor, plan: SegmentPlan, sizes: Tensor, mean: bool
) -> Tensor:
    """(slots, D) what `PoolSegments` gives, by operations that autograd differentiates again.

    As in the dense formula, token t weighs `1 + c_t` less the number c_t in its own segment, where
    c_t is the sum of the boundaries before it.
    """
    before = boundaries.cumsum(1) - boundaries  # (B, L) c_t
    wide = torch.promote_types(h.dtype, torch.float32)
    weight = (1 + before - before.detach()).masked_fill(~plan.kept.view_as(before), 1).to(wide)
    weight = weight.reshape(-1, 1)
    values = _sum_rows(h.reshape(-1, h.shape[-1]).to(wide) * weight, plan.slot, sizes)
    if mean:
        totals = _sum_rows(weight, plan.slot, sizes)
        values = values / torch.where(sizes[:, None] > 0, totals, 1)
    return values.to(h.dtype)


class _SumRows(torch.autograd.Function):
    """`segment_sum`; the gradient of a row is that of its slot."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, slot: Tensor, sizes: Tensor) -> Tensor:
        """(slots, D) sums of the rows of `flat` (N, D)."""
        ctx.save_for_backward(slot)
        return segment_sum(flat, slot, sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of `flat`: what arrives for each row's slot."""
        (slot,) = ctx.saved_tensors
        return _rows_of_slots(grad, slot), None, None


def _sum_rows(flat: Tensor, slot: Tensor, sizes: Tensor) -> Tensor:
    return cast(Tensor, _SumRows.apply(flat, slot, sizes))


def _rows_of_slots(flat: Tensor, slot: Tensor) -> Tensor:
    """(N, D) rows of `flat` at `slot` (N,); its own gradient is summed in a fixed order."""
    if not (torch.is_grad_enabled() and flat.requires_grad):
        return flat.index_select(0, slot)
    return cast(Tensor, GatherSegments.apply(flat, slot, torch.ones_like(slot, dtype=torch.bool)))


def _rowwise_dot(a: Tensor, b: Tensor, rows: int = 256) -> Tensor:
    """(N,) dot products of the rows of two (N, D); on CPU by blocks that stay in cache."""
    if a.device.type != "cpu":
        return (a * b).sum(-1)
    blocks = zip(torch.split(a, rows), torch.split(b, rows), strict=True)
    return torch.cat([(x * y).sum(-1) for x, y in blocks])


class GatherSegments(torch.autograd.Function):
    """Rows of `flat` by index, zero where not `read`; the gradient is a segment sum."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, slot: Tensor, read: Tensor) -> Tensor:
        """(N, D) rows of `flat` at `slot` (N,), zero where not `read` (N,)."""
        ctx.rows, ctx.dtype = flat.shape[0], flat.dtype
        out = flat.index_select(0, slot)
        static = out.device.type != "cpu" or torch.compiler.is_compiling()
        if static or not bool(read.all()):
            out.masked_fill_(~read[:, None], 0)
            slot = torch.where(read, slot, ctx.rows)  # one spare row for gradients of nothing
        ctx.save_for_backward(slot)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of `flat`: the sum of what arrives for each row."""
        (slot,) = ctx.saved_tensors
        grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
        sizes = torch.bincount(slot, minlength=ctx.rows + 1)
        if slot.device.type != "cpu":
            slot, order = slot.sort(stable=True)
            grad = grad.index_select(0, order)
        return _sum_rows(grad, slot, sizes)[: ctx.rows].to(ctx.dtype), None, None

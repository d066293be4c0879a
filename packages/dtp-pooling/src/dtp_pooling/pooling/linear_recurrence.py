"""First-order linear recurrences along a sequence. B batch, S steps, D width."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from dtp_pooling.pooling.segment_plan import is_exported


def linear_recurrence(keep: Tensor, add: Tensor) -> Tensor:
    """(B, S, D) y with y_j = keep_j * y_{j-1} + add_j and y_{-1} = 0; differentiable, also twice.

    On CPU one step after another, linear in S; elsewhere, and in graphs, by doubling: log S
    operations over all steps. A step never depends on a later one, to the last bit.

    Args:
        keep: (B, S) in [0, 1].
        add: (B, S, D) of the same floating dtype.
    """
    if is_exported():  # exporters know no autograd functions
        return _double(keep, add)
    return cast(Tensor, _Recurrence.apply(keep, add))


class _Recurrence(torch.autograd.Function):
    """The recurrence; its gradient is one that runs backwards."""

    @staticmethod
    def forward(ctx: Any, keep: Tensor, add: Tensor) -> Tensor:
        """(B, S, D) of keep (B, S) and add (B, S, D)."""
        is_stepped = add.device.type == "cpu" and not torch.compiler.is_compiling()
        y = _step_through(keep, add) if is_stepped else _double(keep, add)
        ctx.save_for_backward(keep, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """With G_j = g_j + keep_{j+1} G_{j+1}: d add_j = G_j and d keep_j = <G_j, y_{j-1}>."""
        keep, y = ctx.saved_tensors
        following = F.pad(keep[:, 1:], (0, 1)).flip(1)  # keep_{j+1}, last one first
        total = linear_recurrence(following, grad.flip(1)).flip(1)
        change = None
        if ctx.needs_input_grad[0]:
            change = F.pad((total[:, 1:] * y[:, :-1]).sum(-1), (1, 0))
        return change, total


def _step_through(keep: Tensor, add: Tensor) -> Tensor:
    batch, steps, width = add.shape
    out = add.transpose(0, 1).contiguous() if steps else add.new_empty(0, batch, width)  # (S, B, D)
    if out.data_ptr() == add.data_ptr():
        out = out.clone()
    rows, weights = out.unbind(0), keep.t()[:, :, None].unbind(0)
    for j in range(1, steps):
        rows[j].addcmul_(weights[j], rows[j - 1])
    return out.transpose(0, 1)


def _double(keep: Tensor, add: Tensor) -> Tensor:
    """Sums over 1, 2, 4, … steps."""
    weight, distance, steps = keep[..., None], 1, add.shape[1]
    while distance < steps:
        add = add + weight * F.pad(add, (0, 0, distance, 0))[:, :steps]
        weight = weight * F.pad(weight, (0, 0, distance, 0))[:, :steps]
        distance *= 2
    return add

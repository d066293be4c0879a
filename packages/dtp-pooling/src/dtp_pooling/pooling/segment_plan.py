"""Which slot of a buffer each token is added to when tokens are pooled.

B batch, L tokens, S segments of the longest row, T segments of all rows together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SegmentPlan(NamedTuple):
    """Where the tokens of one pooling go.

    Each row owns consecutive slots of a buffer: one per segment, then perhaps a spare one for
    dropped tokens.
    """

    slot: Tensor  # (B * L,) slot of each token, non-decreasing
    kept: Tensor  # (B * L,) bool: the token belongs to a segment
    total: int  # slots in all
    segment_of: Tensor  # (B, L)
    per_row: Tensor  # (B,) segments of each row, null included
    size: int  # S of the padded layout, or T of the packed one
    width: int  # slots of each row of the padded layout


def make_plan(
    boundaries: Tensor,
    tail: str,
    with_null: bool,
    lengths: Tensor | None,
    layout: str,
    max_segments: int | None,
) -> SegmentPlan:
    """Where every token goes. Dropped tokens go to one spare slot at the end of their row."""
    batch, length = boundaries.shape
    device = boundaries.device
    closes = (boundaries > 0.5).detach()
    position = torch.arange(length, device=device)
    valid = None if lengths is None else position < lengths[:, None]  # (B, L)
    if valid is not None:
        closes = closes & valid
    inclusive = closes.long().cumsum(1)
    segment = inclusive - closes.long()  # (B, L) boundaries strictly before each token
    closed = inclusive[:, -1] if length else inclusive.new_zeros(batch)
    if tail == "keep":
        kept = torch.ones_like(closes) if valid is None else valid
        last = (segment + 1).masked_fill(~kept, 0)
        per_row = last.amax(1) if length else closed
    else:
        kept, per_row = segment < closed[:, None], closed
    width = 0
    spare = int(tail == "drop" or lengths is not None)
    first = int(with_null)
    per_row = per_row + first
    if layout == "padded":
        size = _choose_size(per_row, max_segments, length + first)
        start = torch.arange(batch, device=device) * (size + spare)
        end, total, width = start + size, batch * (size + spare), size + spare
    else:
        size = int(per_row.sum())
        ends = (per_row + spare).cumsum(0)
        start, end = ends - per_row - spare, ends - spare
        total = size + batch * spare
    slot = torch.where(kept, start[:, None] + first + segment, end[:, None])
    segment_of = (segment + first).masked_fill(~kept, -1)
    return SegmentPlan(slot.reshape(-1), kept.reshape(-1), total, segment_of, per_row, size, width)


def _choose_size(per_row: Tensor, max_segments: int | None, most: int) -> int:
    if max_segments is None:
        return most if is_exported() else longest_row(per_row)
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return max_segments  # such a graph holds no checks
    got = "more" if _is_deferred(per_row) else longest_row(per_row)
    require_all(
        per_row <= max_segments,
        f"max_segments={max_segments} is too small: a row has {got} segments (null included); "
        "raise it or leave it out",
    )
    return max_segments


def require_all(condition: Tensor, message: str) -> None:
    """Raise ValueError unless every bool of a tensor holds; off CPU without waiting for it."""
    holds = condition.all()
    if _is_deferred(holds):
        torch._assert_async(holds, message)
    elif not bool(holds):
        raise ValueError(message)


def is_exported() -> bool:
    """Whether a graph for inputs of any size is recorded, by `torch.export` or by a trace."""
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return bool(traced) or torch.compiler.is_exporting()


def _is_deferred(values: Tensor) -> bool:
    """Whether a tensor's numbers cannot be read now: off CPU without waiting, or in a graph."""
    return values.device.type != "cpu" or torch.compiler.is_compiling()


def longest_row(lengths: Tensor) -> int:
    """The largest of the rows' numbers of segments (B,)."""
    return int(lengths.max()) if lengths.numel() else 0

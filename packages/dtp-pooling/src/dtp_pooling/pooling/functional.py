"""Segment pooling and its inverse, linear in the number of tokens.

B batch, L tokens, S segments of the longest row, T segments of all rows together, D width.

A boundary `b[t] = 1` *closes* a segment after token t: the segment includes token t and the next
one starts at t + 1. A token's segment is therefore the number of boundaries strictly before it.

The mean and its gradient are those of the dense formula of Nawrot et al. 2023 ("Efficient
Transformers with Dynamic Token Pooling", section 3), which builds a (B, L, S) weight matrix; here
both directions cost O(B L D) time and memory. With g the gradient of the pooled values, n the
segment sizes and m the means:

    dh_t = g_{c_t} / n_{c_t},   dc_t = <g_{c_t}, h_t - m_{c_t}> / n_{c_t},   db_i = sum_{t>i} dc_t

Deviations: no epsilon in the denominator, and an unfinished last segment is either always kept or
always dropped, never kept because some other row of the batch is longer.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dtp_pooling.pooling.linear_recurrence import linear_recurrence
from dtp_pooling.pooling.segment_autograd import GatherSegments, PoolSegments, sum_segments
from dtp_pooling.pooling.segment_plan import (
    SegmentPlan,
    is_exported,
    longest_row,
    make_plan,
    require_all,
)

Reduce = Literal["mean", "sum", "first", "last"]
Tail = Literal["keep", "drop"]
Layout = Literal["padded", "packed"]

_LEAST = 1e-4  # and 1 less it the most probability of a segment in `smooth`


class Pooled(NamedTuple):
    """Values of segments, and the segment of each token.

    Attributes:
        values: (B, S, D) padded with zeros at the end of short rows, or (T, D) packed.
        counts: int64, (B, S) or (T,): tokens in each segment; 0 for the null segment and padding.
        segment_of: int64 (B, L): the row's segment (null included in the numbering) that holds each
            token; -1 for tokens of a dropped tail and beyond the row's length.
        cu_seqlens: int32 (B + 1,): first packed segment of each row, then T; in both layouts.
    """

    values: Tensor
    counts: Tensor
    segment_of: Tensor
    cu_seqlens: Tensor

    @property
    def lengths(self) -> Tensor:
        """(B,) int64 segments of each row, null included."""
        return (self.cu_seqlens[1:] - self.cu_seqlens[:-1]).long()

    @property
    def mask(self) -> Tensor:
        """(B, S) bool, True where a padded row has a segment; S is that of the padded layout."""
        size = self.values.shape[1] if self.values.dim() == 3 else longest_row(self.lengths)
        return torch.arange(size, device=self.values.device) < self.lengths[:, None]


def pool(
    h: Tensor,
    boundaries: Tensor,
    reduce: Reduce = "mean",
    tail: Tail = "keep",
    null: Tensor | None = None,
    lengths: Tensor | None = None,
    layout: Layout = "padded",
    max_segments: int | None = None,
) -> Pooled:
    """One value per segment, summed in at least float32, in time linear in the tokens.

    Args:
        h: (B, L, D) tokens of a floating dtype.
        boundaries: (B, L), any dtype; above 0.5 closes a segment after that token. A floating
            tensor that requires gradient receives the straight-through gradient of the module
            docstring for `mean`, the same without normalization for `sum`, and zero for
            `first` and `last`, which select a token.
        reduce: `mean`, `sum`, `first` or `last` token of each segment.
        tail: What becomes of tokens after a row's last boundary: `keep` makes them a segment,
            `drop` leaves them out (a causal model cannot use an unfinished segment).
        null: (D,) value put in front of every row as segment 0, or None.
        lengths: (B,) valid tokens of each row, or None when all L are valid.
        layout: `padded` gives (B, S, D), `packed` the rows one after another (T, D).
        max_segments: S of the padded layout (null included) when it is known beforehand, which
            spares a device synchronization and lets `torch.compile` follow; None takes the longest
            row, and in an exported graph the most that there can be: L, null not included.

    Raises:
        ValueError: Shapes disagree, an option is unknown, or a row has more than `max_segments`.
    """
    _check_pool(h, boundaries, reduce, tail, null, lengths, layout, max_segments)
    plan = make_plan(boundaries, tail, null is not None, lengths, layout, max_segments)
    sums, sizes = _reduce_slots(h, boundaries, plan, reduce)
    values, counts = _crop(sums, plan, layout), _crop(sizes, plan, layout)
    if null is not None:
        values = _put_null(values, null.to(values.dtype), plan, layout)
    cu_seqlens = torch.cat([plan.per_row.new_zeros(1), plan.per_row.cumsum(0)]).to(torch.int32)
    return Pooled(values, counts, plan.segment_of, cu_seqlens)


def unpool(
    values: Tensor,
    segment_of: Tensor,
    cu_seqlens: Tensor | None = None,
    confidence: Tensor | None = None,
) -> Tensor:
    """Each token's segment value, (B, L, D); zero where `segment_of` is -1.

    Args:
        values: (B, S, D) padded, or (T, D) packed together with `cu_seqlens`.
        segment_of: (B, L) the row's segment that each token reads: `Pooled.segment_of` for its
            own segment, `closed_segment_of(boundaries)` for the newest finished one (causal).
        cu_seqlens: (B + 1,) of the packed layout; None for the padded one.
        confidence: (B, L) how sure each token's boundary or absence of one is. It changes no value:
            tokens are multiplied by one, with the gradient of a multiplication by the confidence
            (Hwang et al. 2025, "H-Net", section 2.2).

    Raises:
        ValueError: Shapes disagree, or a row has no segment of a given number.
    """
    _check_unpool(values, segment_of, cu_seqlens)
    if confidence is not None and confidence.shape != segment_of.shape:
        raise ValueError(
            f"confidence must be (B, L) = {tuple(segment_of.shape)}, got {tuple(confidence.shape)}"
        )
    batch, length = segment_of.shape
    if cu_seqlens is None:
        start = torch.arange(batch, device=values.device) * values.shape[1]
        has: Tensor | int = values.shape[1]
    else:
        start = cu_seqlens[:-1].long()
        has = cu_seqlens.diff()[:, None]
    require_all(
        segment_of < has,
        "segment_of names a segment that its row does not have; closed_segment_of counts a null "
        "segment, which pool adds when it is given one",
    )
    read = segment_of >= 0
    slot = torch.where(read, start[:, None] + segment_of, 0).reshape(-1)
    flat = values if cu_seqlens is not None else values.flatten(0, 1)
    if flat.shape[0] == 0:  # every row is empty: nothing to read, but keep the graph
        return flat.sum() + values.new_zeros(batch, length, values.shape[-1])
    tokens = cast(Tensor, GatherSegments.apply(flat, slot, read.reshape(-1)))
    tokens = tokens.view(batch, length, flat.shape[1])
    if confidence is None:
        return tokens
    one = 1 + (confidence - confidence.detach())
    return tokens * one[..., None].to(tokens.dtype)


def smooth(
    values: Tensor,
    probability: Tensor,
    cu_seqlens: Tensor | None = None,
    previous: Tensor | None = None,
) -> Tensor:
    """Exponential average over the segments of a row: y_j = p_j v_j + (1 - p_j) y_{j-1}.

    H-Net's smoothing (Hwang et al. 2025, section 2.2): a segment whose boundary is unsure is
    blended with those before it, so that the gradient says whether the boundary was worth it. The
    first segment of a row stays as it is. In at least float32, in time linear in the segments; p is
    kept within [1e-4, 1 - 1e-4].

    Args:
        values: (B, S, D) padded, or (T, D) packed together with `cu_seqlens`.
        probability: (B, S) or (T,) probability of the boundary that each segment ends with.
        cu_seqlens: (B + 1,) of the packed layout; None for the padded one.
        previous: (B, D) y before the first segment, to continue a row, as decoding does (padded
            layout only); None when the row begins.

    Raises:
        ValueError: Shapes disagree.
    """
    _check_smooth(values, probability, cu_seqlens, previous)
    wide = torch.promote_types(values.dtype, torch.float32)
    if cu_seqlens is not None:
        rows, probability, place = _pad_rows(values, probability, cu_seqlens)
        return smooth(rows, probability).flatten(0, 1).index_select(0, place)
    p = probability.to(wide).clamp(_LEAST, 1 - _LEAST)
    add = p[..., None] * values.to(wide)
    first = values[:, :1].to(wide)  # (B, 1, D)
    if previous is not None:
        first = add[:, :1] + (1 - p[:, :1, None]) * previous.to(wide)[:, None]
    keep = F.pad(1 - p[:, 1:], (1, 0))[:, : p.shape[1]]
    return linear_recurrence(keep, torch.cat([first, add[:, 1:]], 1)).to(values.dtype)


def _check_smooth(
    values: Tensor, probability: Tensor, cu_seqlens: Tensor | None, previous: Tensor | None
) -> None:
    dims = 3 if cu_seqlens is None else 2
    if values.dim() != dims or probability.shape != values.shape[:-1]:
        raise ValueError(
            "expected values (B, S, D) with probability (B, S), or packed (T, D) with (T,) and "
            f"cu_seqlens; got {tuple(values.shape)} with {tuple(probability.shape)}"
        )
    if previous is not None and (dims == 2 or previous.shape != (len(values), values.shape[2])):
        raise ValueError(
            f"previous must be (B, D) and is for the padded layout, got {tuple(previous.shape)} "
            f"for values {tuple(values.shape)}"
        )


def _pad_rows(
    values: Tensor, probability: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Packed (T, D) and (T,) as (B, S, D) and (B, S), and where each packed segment is in B S."""
    lengths = cu_seqlens.diff().long()
    size = longest_row(lengths)
    row = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    at = torch.arange(len(values), device=values.device) - cu_seqlens[:-1].long()[row]
    place = row * size + at
    padded = values.new_zeros(len(lengths) * size, values.shape[1]).index_copy(0, place, values)
    chances = probability.new_ones(len(lengths) * size).index_copy(0, place, probability)
    return padded.view(len(lengths), size, -1), chances.view(len(lengths), size), place


def closed_segment_of(boundaries: Tensor) -> Tensor:
    """(B, L) newest segment that is finished at each token, in a pooling with a null segment.

    0 is the null segment; a token that closes a segment already reads it. Reading through these
    indices keeps a causal model causal.
    """
    return (boundaries > 0.5).long().cumsum(1)


def _check_unpool(values: Tensor, segment_of: Tensor, cu_seqlens: Tensor | None) -> None:
    if segment_of.dim() != 2:
        raise ValueError(f"segment_of must be (B, L), got shape {tuple(segment_of.shape)}")
    if (values.dim() == 2) != (cu_seqlens is not None):
        raise ValueError(
            f"values of shape {tuple(values.shape)} need cu_seqlens exactly when they are packed "
            "(T, D); pass Pooled.cu_seqlens with packed values and nothing with padded ones"
        )
    rows = values.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
    if rows != len(segment_of):
        raise ValueError(
            f"values have {rows} rows, segment_of has {len(segment_of)}; pass those of one pool"
        )


def _check_pool(
    h: Tensor,
    boundaries: Tensor,
    reduce: str,
    tail: str,
    null: Tensor | None,
    lengths: Tensor | None,
    layout: str,
    max_segments: int | None,
) -> None:
    if h.dim() != 3 or not h.is_floating_point():
        raise ValueError(f"h must be a floating (B, L, D), got {h.dtype} {tuple(h.shape)}")
    if boundaries.shape != h.shape[:2]:
        raise ValueError(
            f"boundaries must be (B, L) = {tuple(h.shape[:2])}, got {tuple(boundaries.shape)}"
        )
    options = {"reduce": (reduce, Reduce), "tail": (tail, Tail), "layout": (layout, Layout)}
    for name, (got, allowed) in options.items():
        if got not in get_args(allowed):
            raise ValueError(f"{name} must be one of {get_args(allowed)}, got {got!r}")
    if null is not None and null.shape != h.shape[2:]:
        raise ValueError(f"null must be (D,) = ({h.shape[2]},), got {tuple(null.shape)}")
    if lengths is not None and lengths.shape != h.shape[:1]:
        raise ValueError(f"lengths must be (B,) = ({h.shape[0]},), got {tuple(lengths.shape)}")
    if max_segments is not None and layout == "packed":
        raise ValueError("max_segments has no meaning for layout='packed'; leave it out")


def _reduce_slots(
    h: Tensor, boundaries: Tensor, plan: SegmentPlan, reduce: str
) -> tuple[Tensor, Tensor]:
    """(slots, D) values and (slots,) counts of the plan's slots, spare ones included."""
    if reduce in ("mean", "sum"):
        if is_exported():  # exporters know no autograd functions
            return sum_segments(h, plan, reduce == "mean")
        values, counts = PoolSegments.apply(h, boundaries, plan, reduce == "mean")
        return values, counts
    selected = torch.ones_like(plan.kept)  # the first or last token of each slot
    differs = plan.slot[1:] != plan.slot[:-1]
    if reduce == "first":
        selected[1:] = differs
    else:
        selected[:-1] = differs
    selected &= plan.kept
    only = h.flatten(0, 1).masked_fill(~selected[:, None], 0)
    unused = torch.zeros_like(boundaries, dtype=torch.bool)
    if is_exported():
        return sum_segments(only.view_as(h), plan, False)
    values, counts = PoolSegments.apply(only.view_as(h), unused, plan, False)
    return values, counts


def _crop(buffer: Tensor, plan: SegmentPlan, layout: str) -> Tensor:
    """The buffer without the spare slots: (B, S, ...) or (T, ...)."""
    batch = plan.per_row.shape[0]
    if layout == "padded":
        return buffer.view(batch, plan.width, *buffer.shape[1:])[:, : plan.size]
    if plan.total == plan.size:
        return buffer
    row = torch.arange(batch, device=buffer.device).repeat_interleave(plan.per_row)
    # the slots of row r were moved back by one spare slot for each of the r rows before it
    return buffer.index_select(0, torch.arange(plan.size, device=buffer.device) + row)


def _put_null(values: Tensor, null: Tensor, plan: SegmentPlan, layout: str) -> Tensor:
    """Values with the null in each row's segment 0, which held no token and is zero."""
    if layout == "padded":
        return torch.cat([null.expand(values.shape[0], 1, -1), values[:, 1:]], dim=1)
    first = plan.per_row.cumsum(0) - plan.per_row
    return values.index_add(0, first, null.expand(first.numel(), -1))

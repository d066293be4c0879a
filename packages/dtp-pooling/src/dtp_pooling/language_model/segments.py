"""Where the segments of a text end, as a language model decides it.

N symbols of the text, L window.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dtp_pooling.language_model.model import DynamicPoolingLM


class Cuts(NamedTuple):
    """Where a part of a text is cut.

    Attributes:
        levels: Entry i is 0 for no cut before the i-th of the n symbols of the part, 1 for one
            between segments, 2 for one between segments of segments too; the first is 0.
        probabilities: Of a boundary at each symbol, n entries; None for kinds that learn nothing.
    """

    levels: list[int]
    probabilities: list[float] | None


def find_segments(
    model: DynamicPoolingLM, text: Tensor, start: int, end: int, *, window: int, stride: int
) -> list[tuple[int, int]]:
    """(first, one past the last) symbol of each segment of `find_cuts`, in the text."""
    cuts = find_cuts(model, text, start, end, window=window, stride=stride)
    firsts = [start + place for place, level in enumerate(cuts.levels) if level or not place]
    return list(zip(firsts, [*firsts[1:], end], strict=True))


@torch.no_grad()
def find_cuts(
    model: DynamicPoolingLM, text: Tensor, start: int, end: int, *, window: int, stride: int
) -> Cuts:
    """The cuts of a part of a text; its last segment may be unfinished.

    A cut is behind the symbol that closes a segment. `routing` is drawn as H-Net has it, before the
    symbol that differs from the last one, because that symbol opens what later ones read.

    Args:
        model: In evaluation mode.
        text: (N,) int64 ids, of which those before `start` are context.
        start: First symbol of the part, and of its first segment.
        end: One past its last symbol.
        window: Most inputs of the model at once.
        stride: Symbols decided per window, each with at least `window - stride` before it.

    Raises:
        ValueError: The model pools nothing, or the part is empty.
    """
    if model.segmenter is None:
        raise ValueError("the model pools nothing (kind 'none'), so that it has no segments")
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"expected a part of the text's {len(text):,} characters, got {start:,} to {end:,}"
        )
    device = model.head.weight.device
    levels: list[int] = []
    chances: list[float] = []
    for first in range(start, end, stride):
        last = min(first + stride, end)
        begin = max(0, last - window)
        out = model(text[None, begin:last].to(device))
        levels += _find_levels(out.boundaries, out.nested_boundaries)[first - begin :].tolist()
        if out.boundary_logits is not None:
            chances += out.boundary_logits[0, first - begin :].sigmoid().tolist()
    if model.config.boundaries.kind != "routing":
        levels = [0, *levels[:-1]]
    return Cuts([0, *levels[1:]], chances or None)


def _find_levels(boundaries: Tensor | None, nested: Tensor | None) -> Tensor:
    """(L,) 0, 1 or 2 for each symbol of one row (1, L); `nested` is (1, S), null included."""
    assert boundaries is not None
    closes = (boundaries[0] > 0.5).long()
    if nested is None:
        return closes
    segment = closes.cumsum(0)  # that a closing symbol closes; 0 is the null one
    return closes * (1 + (nested[0] > 0.5).long()[segment])

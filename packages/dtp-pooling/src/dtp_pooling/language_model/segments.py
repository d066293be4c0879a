"""Where the segments of a text end, as a language model decides it.

N symbols of the text, L window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtp_pooling.language_model.model import DynamicPoolingLM


@torch.no_grad()
def find_segments(
    model: DynamicPoolingLM, text: Tensor, start: int, end: int, *, window: int, stride: int
) -> list[tuple[int, int]]:
    """The segments of a part of a text; the last one may be unfinished.

    Args:
        model: In evaluation mode.
        text: (N,) int64 ids, of which those before `start` are context.
        start: First symbol of the part, and of its first segment.
        end: One past its last symbol.
        window: Most inputs of the model at once.
        stride: Symbols decided per window, each with at least `window - stride` before it.

    Returns:
        (first, one past the last) symbol of each segment, in the text.

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
    ends: list[int] = []
    for first in range(start, end, stride):
        last = min(first + stride, end)
        begin = max(0, last - window)
        boundaries = model(text[None, begin:last].to(device)).boundaries
        assert boundaries is not None
        decided = boundaries[0, first - begin :].nonzero()[:, 0]
        ends += [first + int(place) + 1 for place in decided]
    if not ends or ends[-1] != end:
        ends.append(end)
    return list(zip([start, *ends[:-1]], ends, strict=True))

"""The distinct captions of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def number_captions(captions: list[str], *, merge_equal: bool) -> tuple[list[str], Tensor]:
    """The candidates of a batch, and which of them belongs to each image.

    Args:
        captions: One per image (B).
        merge_equal: Whether equal captions are one candidate.

    Returns:
        The candidates (U of them, in order of first appearance) and `caption_of` (B,).
    """
    if not merge_equal:
        return captions, torch.arange(len(captions))
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(caption, len(numbers)) for caption in captions]
    return list(numbers), torch.tensor(rows)

"""Augmentation of training images. B batch, S image side; pixels stay uint8.

`shift_and_flip` works on a whole batch on its device; `crop_box` gives the part of one image that
a worker process cuts out. Both turn given uniform numbers into a choice and draw none themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def shift_and_flip(images: Tensor, uniform: Tensor, *, pad: int, flip: bool) -> Tensor:
    """Shift each image by up to `pad` pixels over its mirrored border, and mirror half of them.

    Args:
        images: uint8 (B, 3, S, S).
        uniform: (B, 3) numbers in [0, 1): vertical shift, horizontal shift, mirror below 0.5.
        pad: Largest shift in pixels; 0 shifts nothing.
        flip: Whether to mirror at all.

    Returns:
        uint8 (B, 3, S, S), in channels-last memory.
    """
    batch, side = images.shape[0], images.shape[-1]
    offset = (uniform[:, :2] * (2 * pad + 1)).long()  # (B, 2) in 0 … 2 pad
    grid = torch.arange(side, device=images.device)
    rows = offset[:, :1] + grid  # (B, S)
    columns = offset[:, 1:2] + grid  # (B, S)
    if flip:
        mirrored = uniform[:, 2:3] < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images.float(), (pad,) * 4, mode="reflect").to(images.dtype) if pad else images
    padded = padded.permute(0, 2, 3, 1)  # (B, S', S', 3)
    item = torch.arange(batch, device=images.device)[:, None, None]
    return padded[item, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


CROP_ATTEMPTS = 10


def crop_box(width: int, height: int, uniform: Sequence[float], scale: tuple[float, float]) -> Box:
    """The rectangle of a random resized crop (Szegedy et al. 2015; torchvision's rule).

    Area share uniform in `scale`, aspect log-uniform in 3/4 … 4/3; the first of ten attempts that
    fits the image, else the largest central crop within those aspects.

    Args:
        width: Image width in pixels.
        height: Image height in pixels.
        uniform: 4 * CROP_ATTEMPTS numbers in [0, 1).
        scale: Least and largest share of the area.
    """
    low, high = math.log(3 / 4), math.log(4 / 3)
    for attempt in range(CROP_ATTEMPTS):
        share, aspect, vertical, horizontal = uniform[4 * attempt : 4 * attempt + 4]
        area = width * height * (scale[0] + share * (scale[1] - scale[0]))
        ratio = math.exp(low + aspect * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(vertical * (height - h + 1)), int(horizontal * (width - w + 1))
            return Box(top, left, h, w)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def area_box(width: int, height: int, uniform: Sequence[float], scale: tuple[float, float]) -> Box:
    """The rectangle of a random part of an image, in the image's aspect ratio.

    Args:
        width: Image width in pixels.
        height: Image height in pixels.
        uniform: Three numbers in [0, 1): of the area, the place from the top and from the left.
        scale: Least and largest share of the area, which is uniform between them.
    """
    side = math.sqrt(scale[0] + uniform[0] * (scale[1] - scale[0]))
    w, h = max(1, round(width * side)), max(1, round(height * side))
    return Box(int(uniform[1] * (height - h + 1)), int(uniform[2] * (width - w + 1)), h, w)

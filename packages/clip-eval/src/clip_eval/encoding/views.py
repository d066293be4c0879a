"""Views of an image whose features are averaged. B batch, H and W pixels, D width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Views = Literal["single", "mirror", "mirror_shift"]
VIEWS: tuple[str, ...] = get_args(Views)


def average_views(encode: Callable[[Tensor], Tensor], images: Tensor, views: Views) -> Tensor:
    """Weighted mean (B, D) of what `encode` makes of the views of images (B, 3, H, W).

    `mirror` is the image and its mirror image. `mirror_shift` adds both after a shift by one pixel
    down and right, and up and left, over a mirrored border (Jordan 2024, section 3.6): the
    unshifted two weigh as much as the shifted four.
    """
    if views == "single":
        return encode(images)
    features = _average_mirrored(encode, images)
    if views == "mirror":
        return features
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    for start in (0, 2):
        shifted = padded[:, :, start : start + height, start : start + width]
        features = features + _average_mirrored(encode, shifted) / 2
    return features / 2


def _average_mirrored(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.stack([encode(images), encode(images.flip(-1))]).mean(dim=0)

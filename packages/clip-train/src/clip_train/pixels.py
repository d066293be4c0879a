"""From an encoded image to pixels of the size a batch has, decoded no larger than needed.

A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size from the low frequencies of each block, for
a fraction of the time (what libjpeg calls scaling in the DCT domain).  The smallest such size is
used that is still no smaller than the crop needs; the rest is done by the usual resampling.  The
pixels differ a little from those of a full decode, therefore `data.decode = "exact"` exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from clip_eval import BadSample, Sample, Source, decode_image
from clip_models import Preprocess
from numpy.typing import NDArray
from PIL import Image

from clip_train.augment import Box, crop_box
from clip_train.config import AugmentConfig, DataConfig


@dataclass(frozen=True)
class PixelReader:
    """Reads samples with their pixels.

    Attributes:
        source: Where samples come from.
        preprocess: The evaluation transform, used where no random crop is configured.
        augment: Says whether there is one.
        data: Says how JPEGs are decoded.
    """

    source: Source
    preprocess: Preprocess
    augment: AugmentConfig
    data: DataConfig

    def read(
        self, index: int, uniform: Sequence[float], size: int
    ) -> tuple[Sample, NDArray[np.uint8]]:
        """A sample, and its pixels (size, size, 3).

        Args:
            index: Which sample of the source.
            uniform: 4 * CROP_ATTEMPTS random numbers in [0, 1).
            size: Side in pixels.

        Raises:
            BadSample: It cannot be used; the error names it.
        """
        sample = self.source.read(index)
        return sample, self.decode(sample, uniform, size)

    def decode(self, sample: Sample, uniform: Sequence[float], size: int) -> NDArray[np.uint8]:
        """Pixels (size, size, 3) of a sample.

        Raises:
            BadSample: It has no caption, or its image cannot be decoded.
        """
        if not sample.captions:
            raise BadSample("no-caption", "neither a caption nor a class", sample.key)
        region = _Crop(size, uniform, self.augment.scale)
        crops = self.augment.kind == "random_resized_crop"
        least = region.least_size if crops else self._least_size(size)
        try:
            image = decode_image(
                sample.image, least_size=least if self.data.decode == "scaled" else None
            )
        except BadSample as error:
            raise BadSample(error.reason, error.detail, sample.key) from None
        config = self.preprocess.config
        if crops:
            filter = Image.Resampling[config.interpolation.upper()]
            return np.asarray(image.resize((size, size), filter, box=region.within(image)))
        fitted = Preprocess(replace(config, size=size))(image)  # (3, size, size)
        return fitted.permute(1, 2, 0).numpy()

    def _least_size(self, size: int) -> Callable[[int, int], tuple[int, int]]:
        """What the evaluation transform needs of an image."""

        def least_size(width: int, height: int) -> tuple[int, int]:
            if self.preprocess.config.resize_mode == "squash":
                return size, size
            shorter = min(width, height)
            return math.ceil(size * width / shorter), math.ceil(size * height / shorter)

        return least_size


class _Crop:
    """The random crop of one image, which may be decoded at a fraction of its size."""

    def __init__(self, size: int, uniform: Sequence[float], scale: tuple[float, float]) -> None:
        self._size, self._uniform, self._scale = size, uniform, scale
        self._width = 0  # of the image in full size, once it is known
        self._box = Box(0, 0, 0, 0)

    def least_size(self, width: int, height: int) -> tuple[int, int]:
        """The size at which the crop of an image of this full size has `size` pixels a side."""
        self._width = width
        self._box = crop_box(width, height, self._uniform, self._scale)
        return (
            math.ceil(self._size * width / self._box.width),
            math.ceil(self._size * height / self._box.height),
        )

    def within(self, image: Image.Image) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge of the crop in the decoded image."""
        if not self._width:
            self.least_size(image.width, image.height)
        factor = 2.0 ** -round(math.log2(self._width / image.width))
        top, left, height, width = (factor * edge for edge in self._box)
        return left, top, left + width, top + height

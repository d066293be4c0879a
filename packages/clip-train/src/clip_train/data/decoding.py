"""From an encoded image to pixels of a batch's size, decoded no larger than needed.

A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size from the low frequencies of each block, for
a fraction of the time (what libjpeg calls scaling in the DCT domain). The smallest such size is
used that is still no smaller than the crop needs; the rest is done by resampling. The pixels
differ a little from those of a full decode, which `data.decode = "exact"` gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from clip_eval.data import BadSample, Sample, Source, decode_image
from clip_models import Preprocess
from numpy.typing import NDArray
from PIL import Image

from clip_train.augment.geometry import Box, area_box, crop_box
from clip_train.config.data import AugmentConfig, DataConfig

MAX_ASPECT = 200  # of an image whose shorter side is resized


class NativeSize(NamedTuple):
    """The most patches of an image that keeps its aspect ratio."""

    max_tokens: int


@dataclass(frozen=True)
class PixelReader:
    """Reads samples with their pixels.

    Attributes:
        source: Where samples come from.
        preprocess: The evaluation transform, used where no random crop is configured.
        augment: Says whether there is one.
        data: Says how JPEGs are decoded, and whether EXIF turns images.
    """

    source: Source
    preprocess: Preprocess
    augment: AugmentConfig
    data: DataConfig

    def read(
        self, index: int, uniform: Sequence[float], size: int | NativeSize
    ) -> tuple[Sample, NDArray[np.uint8]]:
        """A sample, and its pixels (size, size, 3), or (height, width, 3) in its own shape.

        Args:
            index: Which sample of the source.
            uniform: 4 * CROP_ATTEMPTS random numbers in [0, 1).
            size: Side in pixels, or the most patches of an image that keeps its aspect ratio.

        Raises:
            BadSample: It cannot be used; the error names it.
        """
        sample = self.source.read(index)
        return sample, self.decode(sample, uniform, size)

    def decode(
        self, sample: Sample, uniform: Sequence[float], size: int | NativeSize
    ) -> NDArray[np.uint8]:
        """Pixels (size, size, 3) of a sample, or (height, width, 3) in its own shape.

        Raises:
            BadSample: It has no caption, or its image cannot be decoded or is a mere line.
        """
        if not sample.captions:
            raise BadSample("no-caption", "neither a caption nor a class", sample.key)
        region = self._choose_region(uniform, size)
        least_size = region.least_size if self.data.decode == "scaled" else None
        try:
            upright = self.data.exif_orientation
            image = decode_image(sample.image, least_size=least_size, exif_orientation=upright)
        except BadSample as error:
            raise BadSample(error.reason, error.detail, sample.key) from None
        config = self.preprocess.config
        filter = Image.Resampling[config.interpolation.upper()]
        if not isinstance(region, _WholeImage):
            box = region.within(image)
            return np.asarray(image.resize(region.target, filter, box=box))
        assert isinstance(size, int)
        if config.resize_mode == "shortest" and max(image.size) > MAX_ASPECT * min(image.size):
            detail = f"{image.width} x {image.height}, and larger with a shorter side of {size}"
            raise BadSample("too-large", detail, sample.key)
        if region.is_smaller(image):
            image = image.resize(region.target, filter, box=region.within(image))
        fitted = Preprocess(replace(config, size=size))(image)  # (3, size, size)
        return fitted.permute(1, 2, 0).numpy()

    def _choose_region(self, uniform: Sequence[float], size: int | NativeSize) -> _Region:
        crops, scale = self.augment.kind == "random_resized_crop", self.augment.scale
        if isinstance(size, NativeSize):
            config = replace(self.preprocess.config, max_tokens=size.max_tokens)
            return _NativeRegion(Preprocess(config), uniform, scale if crops else (1.0, 1.0))
        if crops:
            return _RandomCrop(size, uniform, scale)
        return _WholeImage(size, squash=self.preprocess.config.resize_mode == "squash")


class _Region:
    """A region of an image that may be decoded at a fraction of its size."""

    _full = (0, 0)  # width and height of the image, once they are known
    _box = Box(0, 0, 0, 0)
    target = (0, 0)  # width and height of the resized region

    def is_smaller(self, image: Image.Image) -> bool:
        """Whether an image was decoded at a fraction."""
        return image.width < self._full[0]

    def within(self, image: Image.Image) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge of the region in the decoded image."""
        if not self._full[0]:
            self.least_size(image.width, image.height)
        factor = 2.0 ** -round(math.log2(self._full[0] / image.width))
        top, left, height, width = (factor * edge for edge in self._box)
        return left, top, left + width, top + height

    def least_size(self, width: int, height: int) -> tuple[int, int]:
        """The size to decode an image of this full size at, or larger."""
        raise NotImplementedError


class _WholeImage(_Region):
    """All of an image, for the evaluation transform.

    A size that is no multiple of the fraction is rounded up by the decoder, which would move the
    picture by part of a pixel; so the transform's resize is made here, from the region that counts.
    """

    def __init__(self, size: int, *, squash: bool) -> None:
        self._size, self._squash = size, squash

    def least_size(self, width: int, height: int) -> tuple[int, int]:
        """The size that the transform resizes to."""
        self._full, self._box = (width, height), Box(0, 0, height, width)
        shorter = min(width, height)
        self.target = (
            (self._size, self._size)
            if self._squash
            else (int(self._size * width / shorter), int(self._size * height / shorter))
        )
        return self.target


class _RandomCrop(_Region):
    """The random crop of one image."""

    def __init__(self, size: int, uniform: Sequence[float], scale: tuple[float, float]) -> None:
        self._size, self._uniform, self._scale = size, uniform, scale
        self.target = (size, size)

    def least_size(self, width: int, height: int) -> tuple[int, int]:
        """The size at which the crop has `size` pixels a side."""
        self._full = (width, height)
        self._box = crop_box(width, height, self._uniform, self._scale)
        return (
            math.ceil(self._size * width / self._box.width),
            math.ceil(self._size * height / self._box.height),
        )


class _NativeRegion(_Region):
    """All of an image, or a random part of it, in the image's own aspect ratio."""

    def __init__(
        self, preprocess: Preprocess, uniform: Sequence[float], scale: tuple[float, float]
    ) -> None:
        self._preprocess, self._uniform, self._scale = preprocess, uniform, scale

    def least_size(self, width: int, height: int) -> tuple[int, int]:
        """The size at which the part has the pixels of the image's grid of patches."""
        self._full = (width, height)
        rows, columns = self._preprocess.find_native_size((width, height))
        self.target = (columns, rows)
        self._box = Box(0, 0, height, width)
        if self._scale != (1.0, 1.0):
            self._box = area_box(width, height, self._uniform, self._scale)
        return (
            math.ceil(columns * width / self._box.width),
            math.ceil(rows * height / self._box.height),
        )

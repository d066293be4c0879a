"""Images to tower input: resize and crop to uint8 on the host, normalize on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from clip_models.config.image_size import sides_of
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.native_images import NativeImages

Images = TypeVar("Images", Tensor, NativeImages)
MOST_RESIZED = 2**26  # pixels of an image before its center is cropped
KEPT_ASPECT = 16
LEAST_SCALE, MOST_SCALE, SCALE_STEP = 1e-6, 100.0, 1e-5  # of the search for a grid


class Preprocess:
    """The evaluation transform a `PreprocessConfig` describes.

    The two halves are separate because pixels travel to the device as uint8, a quarter of the
    bytes: `preprocess(image)` is called for each sample in a worker, `normalize` for each batch on
    the device.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to uint8 (3, height, width).

        Raises:
            TypeError: It is no image of Pillow's.
        """
        _require_image(image)
        if self.config.resize_mode == "native":
            return self.resize(image, self.find_native_size(image.size))
        height, width = sides_of(self.config.size)
        if self.config.resize_mode == "shortest":
            image = _cut_far_ends(image, (height, width))
        if image.size != (width, height):
            target = _target_size(image.size, (height, width), self.config.resize_mode)
            image = v2.functional.resize(image, target, interpolation=self._interpolation())
            if image.size != (width, height):
                margins = _margins(image.size, (width, height))
                image = v2.functional.pad(image, margins, fill=self.config.fill_color)
                image = v2.functional.center_crop(image, [height, width])
        return v2.functional.pil_to_tensor(image.convert("RGB"))

    def find_native_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image of this width and height has under "native"."""
        patch_size, max_tokens = self.config.patch_size, self.config.max_tokens
        assert patch_size is not None, "resize_mode is not 'native'"
        assert max_tokens is not None, "resize_mode is not 'native'"
        rows, columns = fit_grid(image_size[1], image_size[0], patch_size, max_tokens)
        return rows * patch_size, columns * patch_size

    def resize(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """An image of any size and mode to uint8 (3, height, width) of the given size."""
        if image.size != (size[1], size[0]):
            image = v2.functional.resize(image, [*size], interpolation=self._interpolation())
        return v2.functional.pil_to_tensor(image.convert("RGB"))

    def normalize(self, images: Images) -> Images:
        """uint8 pixels to float32 of the same shape and device, `(x / 255 - mean) / std`.

        Pixels are (B, 3, H, W) or those of images of their own shape.

        Raises:
            ValueError: They are numbers from 0 to 1, which is checked on the CPU only.
        """
        if isinstance(images, NativeImages):
            per_pixel = images.patches.view(*images.patches.shape[:2], -1, 3)  # (B, L, p * p, 3)
            return NativeImages(self._scale(per_pixel, (3,)).flatten(2), images.grids)
        return self._scale(images, (3, 1, 1))

    def _scale(self, pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Pixels normalized; means and deviations have this shape."""
        if pixels.is_floating_point() and pixels.device.type == "cpu":
            _require_bytes(pixels)
        mean = torch.tensor(self.config.mean, device=pixels.device).view(shape)
        std = torch.tensor(self.config.std, device=pixels.device).view(shape)
        return (pixels.float() / 255).sub_(mean).div_(std)

    def _interpolation(self) -> v2.InterpolationMode:
        return v2.InterpolationMode(self.config.interpolation)


class TrainTransform(Preprocess):
    """A random crop of `scale` of the image's area, resized to the tower's input, as uint8.

    With `resize_mode` "native" the crop has the image's aspect ratio, and a `scale` of (1, 1) crops
    nothing. `normalize` is that of the evaluation transform; random numbers are torch's global
    ones.
    """

    def __init__(
        self, config: PreprocessConfig, *, scale: tuple[float, float] = (0.9, 1.0)
    ) -> None:
        super().__init__(config)
        self.scale = scale

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to uint8 (3, height, width)."""
        _require_image(image)
        if self.config.resize_mode == "native":
            size = self.find_native_size(image.size)
            uniform = torch.rand(3).tolist()
            return self.resize(image.crop(crop_area(image.size, self.scale, uniform)), size)
        crop = v2.RandomResizedCrop(
            sides_of(self.config.size), scale=self.scale, interpolation=self._interpolation()
        )
        return v2.functional.pil_to_tensor(crop(image).convert("RGB"))


class EvaluationTransform(Preprocess):
    """Resizes, crops and normalizes one image, bit for bit as open_clip's evaluation transform."""

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to float32 (3, height, width)."""
        return self.normalize(super().__call__(image))


def fit_grid(height: int, width: int, patch_size: int, max_tokens: int) -> tuple[int, int]:
    """Rows and columns of the patches of an image that keeps its aspect ratio.

    The image is scaled, up or down, as far as ceil(height / p) * ceil(width / p) patches are at
    most `max_tokens`, to a hundred times its size at most; the same for height and width exchanged.
    Equal to transformers' SigLIP 2 processor and timm's `ResizeToSequence`.
    """
    low, high = LEAST_SCALE, MOST_SCALE
    while high - low >= SCALE_STEP:
        middle = (low + high) / 2
        rows, columns = _count_patches(height, width, patch_size, middle)
        if rows * columns <= max_tokens:
            low = middle
        else:
            high = middle
    rows, columns = _count_patches(height, width, patch_size, low)
    return min(rows, max_tokens), min(columns, max_tokens // min(rows, max_tokens))


def crop_area(
    size: tuple[int, int], scale: tuple[float, float], uniform: Sequence[float]
) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) with the aspect ratio of an image of this width and height.

    Args:
        size: Width and height.
        scale: Least and largest part of the image's area.
        uniform: Three numbers in [0, 1): of the area, the place from the left and from the top.
    """
    side = (scale[0] + (scale[1] - scale[0]) * uniform[0]) ** 0.5
    width, height = (max(1, round(whole * side)) for whole in size)
    left = int(uniform[1] * (size[0] - width + 1))
    top = int(uniform[2] * (size[1] - height + 1))
    return left, top, left + width, top + height


def _require_bytes(pixels: Tensor) -> None:
    if not torch.compiler.is_compiling() and pixels.sum() > 0 and pixels.abs().max() <= 1:
        raise ValueError(
            "pixels must be numbers from 0 to 255, as uint8 holds them, got numbers from 0 to 1; "
            "multiply them by 255"
        )


def _require_image(image: object) -> None:
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"expected a PIL image, got {type(image).__name__}; PIL.Image.open reads a file, "
            "PIL.Image.fromarray takes an array (H, W, 3) of uint8"
        )


def _count_patches(height: int, width: int, patch_size: int, scale: float) -> tuple[int, int]:
    """Rows and columns of an image scaled by this, at least one of each."""
    rows, columns = (max(1, math.ceil(side * scale / patch_size)) for side in (height, width))
    return rows, columns


def _cut_far_ends(image: Image.Image, sides: tuple[int, int]) -> Image.Image:
    """The middle of an image of which the resized whole would fill the memory, else the image.

    A line of 80,000,000 x 1 pixels would become 18 billion x 224. The crop that follows takes its
    middle alone; where ends are cut here, it may move by a part of a pixel.
    """
    width, height = image.size
    shorter, longer = sorted(image.size)
    if longer * max(sides) ** 2 <= MOST_RESIZED * shorter:
        return image
    kept = min(longer, KEPT_ASPECT * shorter * -(-max(sides) // min(sides)))
    start = (longer - kept) // 2
    box = (start, 0, start + kept, height) if width == longer else (0, start, width, start + kept)
    return image.crop(box)


def _target_size(image_size: tuple[int, int], sides: tuple[int, int], mode: str) -> list[int]:
    """The resize argument: one number for the shorter side, or height and width."""
    if mode == "squash":
        return [*sides]
    if mode == "shortest" and sides[0] == sides[1]:
        return [sides[0]]
    choose = min if mode == "shortest" else max
    ratio = choose(old / new for old, new in zip(reversed(image_size), sides, strict=True))
    return [max(1, round(old / ratio)) for old in reversed(image_size)]


def _margins(image_size: tuple[int, int], sides: tuple[int, int]) -> list[int]:
    """Padding on the left, top, right and bottom; both sizes are width and height."""
    missing = [max(0, new - old) for old, new in zip(image_size, sides, strict=True)]
    return [*(m // 2 for m in missing), *((m + 1) // 2 for m in missing)]

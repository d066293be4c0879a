"""Images to tower input: resize and crop to uint8 on the host, normalize on the device."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from clip_models.config.image_size import sides_of
from clip_models.config.preprocess_config import PreprocessConfig

MOST_RESIZED = 2**26  # pixels of an image before its center is cropped
KEPT_ASPECT = 16


class Preprocess:
    """The evaluation transform a `PreprocessConfig` describes.

    The two halves are separate because pixels travel to the device as uint8, a quarter of the
    bytes: `preprocess(image)` is called for each sample in a worker, `normalize` for each batch on
    the device.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to uint8 (3, height, width)."""
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

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float32 of the same shape and device, `(x / 255 - mean) / std`."""
        mean = torch.tensor(self.config.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.config.std, device=images.device).view(3, 1, 1)
        return (images.float() / 255).sub_(mean).div_(std)

    def _interpolation(self) -> v2.InterpolationMode:
        return v2.InterpolationMode(self.config.interpolation)


class TrainTransform(Preprocess):
    """A random crop of `scale` of the image's area, resized to the tower's input, as uint8.

    `normalize` is that of the evaluation transform; random numbers are torch's global ones.
    """

    def __init__(
        self, config: PreprocessConfig, *, scale: tuple[float, float] = (0.9, 1.0)
    ) -> None:
        super().__init__(config)
        self.scale = scale

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to uint8 (3, height, width)."""
        crop = v2.RandomResizedCrop(
            sides_of(self.config.size), scale=self.scale, interpolation=self._interpolation()
        )
        return v2.functional.pil_to_tensor(crop(image).convert("RGB"))


class EvaluationTransform(Preprocess):
    """Resizes, crops and normalizes one image, bit for bit as open_clip's evaluation transform."""

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to float32 (3, height, width)."""
        return self.normalize(super().__call__(image))


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

"""Images to tower input: resize and crop to uint8 on the host, normalize on the device."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from clip_models.config.preprocess_config import PreprocessConfig


class Preprocess:
    """The evaluation transform a `PreprocessConfig` describes.

    The two halves are separate because pixels travel to the device as uint8, a quarter of the
    bytes: `preprocess(image)` is called for each sample in a worker, `normalize` for each batch on
    the device.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to uint8 (3, size, size)."""
        size = self.config.size
        if image.size != (size, size):
            target = _target_size(image.size, size, self.config.resize_mode)
            image = v2.functional.resize(image, target, interpolation=self._interpolation())
            if image.size != (size, size):
                fill = self.config.fill_color
                image = v2.functional.pad(image, _margins(image.size, size), fill=fill)
                image = v2.functional.center_crop(image, [size, size])
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
        """An image of any size and mode to uint8 (3, size, size)."""
        crop = v2.RandomResizedCrop(
            self.config.size, scale=self.scale, interpolation=self._interpolation()
        )
        return v2.functional.pil_to_tensor(crop(image).convert("RGB"))


class EvaluationTransform(Preprocess):
    """Resizes, crops and normalizes one image, bit for bit as open_clip's evaluation transform."""

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to float32 (3, size, size)."""
        return self.normalize(super().__call__(image))


def _target_size(image_size: tuple[int, int], size: int, mode: str) -> list[int]:
    """The resize argument: one number for the shorter side, or height and width."""
    if mode == "shortest":
        return [size]
    if mode == "squash":
        return [size, size]
    width, height = image_size
    ratio = max(width, height) / size
    return [max(1, round(height / ratio)), max(1, round(width / ratio))]


def _margins(image_size: tuple[int, int], size: int) -> list[int]:
    """Padding on the left, top, right and bottom."""
    missing = [max(0, size - side) for side in image_size]
    return [*(m // 2 for m in missing), *((m + 1) // 2 for m in missing)]

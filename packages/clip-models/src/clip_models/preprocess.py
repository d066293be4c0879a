"""Images to tower input: resize and crop to uint8 on the host, normalise on the device."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from clip_models.config import PreprocessConfig


class Preprocess:
    """The evaluation transform a `PreprocessConfig` describes.

    The two halves are separate because pixels travel to the device as uint8, a quarter of the
    bytes: `preprocess(image)` is called per sample in a worker, `normalize` per batch on the
    device.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image of any size to uint8 (3, size, size)."""
        size, mode = self.config.size, InterpolationMode(self.config.interpolation)
        if image.size != (size, size):
            target = [size, size] if self.config.resize_mode == "squash" else [size]
            image = transforms.resize(image, target, interpolation=mode, antialias=True)
            image = transforms.center_crop(image, [size, size])
        return transforms.pil_to_tensor(image)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float32 of the same shape and device, `(x / 255 - mean) / std`."""
        mean = torch.tensor(self.config.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.config.std, device=images.device).view(1, 3, 1, 1)
        return images.float().sub_(255 * mean).div_(255 * std)

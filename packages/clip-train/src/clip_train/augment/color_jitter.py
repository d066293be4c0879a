"""Random changes of color from given random numbers. S image side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as transforms

from clip_train.config.data import AugmentConfig

NUMBERS = 10
"""Random numbers for one image."""

_CHANGES = (
    transforms.adjust_brightness,
    transforms.adjust_contrast,
    transforms.adjust_saturation,
    transforms.adjust_hue,
)


def changes_colors(config: AugmentConfig) -> bool:
    """Whether the config changes colors at all."""
    return any(config.color_jitter) or config.grayscale_probability > 0


def jitter_colors(
    pixels: NDArray[np.uint8], uniform: Sequence[float], config: AugmentConfig
) -> NDArray[np.uint8]:
    """Pixels (S, S, 3) with changed brightness, contrast, saturation and hue, or gray.

    Factors are uniform in 1 - c … 1 + c, the shift of the hue in -c … c (torchvision's rule).

    Args:
        pixels: (S, S, 3).
        uniform: `NUMBERS` random numbers in [0, 1).
        config: How much, and of how many images.
    """
    jittered, gray = uniform[0] < config.color_jitter_probability, uniform[1]
    image = torch.tensor(pixels).permute(2, 0, 1)  # (3, S, S)
    if jittered and any(config.color_jitter):
        for change in sorted(range(4), key=lambda change: uniform[6 + change]):
            strength = config.color_jitter[change]
            if strength:
                shift = strength * (2 * uniform[2 + change] - 1)
                image = _CHANGES[change](image, shift if change == 3 else 1 + shift)
    if gray < config.grayscale_probability:
        image = transforms.rgb_to_grayscale(image, num_output_channels=3)
    return image.permute(1, 2, 0).numpy()

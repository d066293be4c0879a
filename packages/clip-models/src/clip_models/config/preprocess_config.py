"""How images are prepared for a tower: the config, and which one a model was trained with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any, Literal

from clip_models.config.checks import require, require_sizes
from clip_models.config.clip_config import CLIPConfig
from clip_models.config.image_size import ImageSize, normalize_size, side_of
from clip_models.config.named_models import get_config
from clip_models.config.towers import ViTConfig


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How an image becomes the input of a tower.

    `resize_mode` "shortest" scales the shorter side to `size` and crops the center; "longest"
    scales the longer side and fills the rest with `fill_color` (of each channel, 0 to 255);
    "squash" scales both sides to `size`. `size` is the side of a square, or height and width:
    "shortest" then scales until both sides are covered, "longest" until both fit. "native" keeps
    the aspect ratio, up to a part of a patch: both sides become multiples of `patch_size`, with as
    many patches as there may be, at most `max_tokens`; `size` is not read. Pixels stay uint8 until
    `mean` and `std` (of values in [0, 1]) are applied on the device.
    """

    size: ImageSize = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash", "native"] = "shortest"
    fill_color: int = 0
    patch_size: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        normalize_size(self, "size")
        if self.resize_mode == "native":
            require_sizes(self, "patch_size", "max_tokens")
        else:
            require(
                self.patch_size is None and self.max_tokens is None,
                f"patch_size and max_tokens are for resize_mode 'native', got {self.resize_mode!r}",
            )
        require(min(self.std) > 0, f"std must be positive, got {self.std}")
        require(
            0 <= self.fill_color <= 255, f"fill_color must be in 0 … 255, got {self.fill_color}"
        )

    @property
    def side(self) -> int:
        """The side of square images in pixels.

        Raises:
            ConfigError: Images are not square.
        """
        return side_of(self.size)


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_SQUASHED: dict[str, Any] = {**_IMAGENET, "interpolation": "bilinear", "resize_mode": "squash"}
_HALVES: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# Preprocessing that the weights of named models were trained with, where it is not OpenAI's.
_PREPROCESS_OF_NAMES: dict[str, dict[str, Any]] = {
    "*-SigLIP*": {**_HALVES, "resize_mode": "squash"},
    "*-CLIPA*": _SQUASHED,
    "*-BigVision": _SQUASHED,
    "CoreNet-*": {"mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bilinear"},
    "CIFAR-*": _HALVES,
}


def get_preprocess_config(name: str) -> PreprocessConfig:
    """The preprocessing that weights of a registered model were trained with."""
    size = get_config(name).vision.image_size
    for pattern, values in _PREPROCESS_OF_NAMES.items():
        if fnmatch(name, pattern):
            return PreprocessConfig(size=size, **values)
    return PreprocessConfig(size=size)


def guess_preprocess_config(config: CLIPConfig) -> PreprocessConfig:
    """The preprocessing that such a model was most likely trained with: SigLIP's or OpenAI's."""
    vision, size = config.vision, config.vision.image_size
    siglip = isinstance(vision, ViTConfig) and vision.readout == "map"
    if isinstance(vision, ViTConfig) and vision.native:
        made = PreprocessConfig(
            size=size,
            resize_mode="native",
            patch_size=vision.patch_size,
            max_tokens=vision.grid[0] * vision.grid[1],
        )
        return replace(made, interpolation="bilinear", **_HALVES) if siglip else made
    if siglip:
        return PreprocessConfig(size=size, resize_mode="squash", **_HALVES)
    return PreprocessConfig(size=size)

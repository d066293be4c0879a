"""What a CLIP model is, as data: one frozen dataclass per tower and one for the pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from clip_models.strict_config import ConfigError, from_dict, to_dict

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Vision transformer of CLIP (Radford et al. 2021, after Dosovitskiy et al. 2021)."""

    kind: Literal["vit"] = "vit"
    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(
            self.image_size % self.patch_size == 0,
            f"image_size must be a multiple of patch_size, got {self.image_size} and "
            f"{self.patch_size}; the grid of patches must cover the image",
        )
        _require_heads(self.width, self.num_heads)


@dataclass(frozen=True, kw_only=True)
class ModifiedResNetConfig:
    """CLIP's ResNet: three-convolution stem, anti-aliased strides, attention pooling."""

    kind: Literal["modified_resnet"] = "modified_resnet"
    image_size: int = 224
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    num_heads: int = 32

    def __post_init__(self) -> None:
        require(
            self.image_size >= 32 and self.image_size % 32 == 0,
            f"image_size must be a multiple of 32 (the network's stride), got {self.image_size}",
        )
        _require_heads(self.width * 32, self.num_heads)


@dataclass(frozen=True, kw_only=True)
class CompactResNetConfig:
    """A small convolutional tower for small images (32 to 96 px) on small machines.

    The stem halves the image's side, and so does each stage: convolution, 2x2 max pooling, one
    residual block.  `widths` are the channels of the stem and of each stage.  `pooling` "max" takes
    the maximum over positions (what is in the image), "flatten" keeps positions apart (also where).
    """

    kind: Literal["compact_resnet"] = "compact_resnet"
    image_size: int = 32
    widths: tuple[int, ...] = (64, 128, 256)
    pooling: Literal["max", "flatten"] = "max"

    def __post_init__(self) -> None:
        require(len(self.widths) >= 2, f"widths must name the stem and a stage, got {self.widths}")
        stride = 2 ** len(self.widths)
        require(
            self.image_size % stride == 0,
            f"image_size must be a multiple of {stride} for {len(self.widths)} widths, "
            f"got {self.image_size}",
        )


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Causal text transformer of CLIP; its feature is read at the end token.

    `eot_token_id` None means the last id of the vocabulary, where CLIP's tokenizers put it.
    """

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    num_layers: int = 12
    num_heads: int = 8
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"
    eot_token_id: int | None = None

    def __post_init__(self) -> None:
        _require_heads(self.width, self.num_heads)
        require(
            self.context_length >= 1, f"context_length must be positive, got {self.context_length}"
        )


VisionConfig = ViTConfig | ModifiedResNetConfig | CompactResNetConfig


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """An image tower and a text tower with one embedding space of `embed_dim` dimensions.

    `init_logit_scale` is the logarithm of the inverse temperature at initialisation; with
    `init_logit_bias` None the model has no logit bias (CLIP), otherwise one (SigLIP).
    """

    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CLIPConfig:
        """The config in a nested dictionary; unknown keys and wrong types are errors."""
        return from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, for JSON or TOML."""
        return to_dict(self)


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How an image becomes the tower's input.

    `resize_mode` "shortest" scales the shorter side to `size` and crops the centre; "squash" scales
    both sides to `size`.  Pixels stay uint8 until `mean` and `std` (of values in [0, 1]) are
    applied on the device.
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    resize_mode: Literal["shortest", "squash"] = "shortest"

    def __post_init__(self) -> None:
        require(self.size >= 1, f"size must be positive, got {self.size}")
        require(min(self.std) > 0, f"std must be positive, got {self.std}")


def _require_heads(width: int, num_heads: int) -> None:
    require(
        num_heads >= 1 and width % num_heads == 0,
        f"width must be a multiple of num_heads, got {width} and {num_heads}",
    )

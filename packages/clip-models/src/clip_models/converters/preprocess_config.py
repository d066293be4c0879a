"""Preprocessing in the files of open_clip and transformers, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clip_models.config.image_size import ImageSize, sides_of
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.config.strict import as_table, from_dict
from clip_models.errors import ConfigError

_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which transformers writes."""
_OPEN_CLIP_KEYS = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color")


def from_open_clip_preprocess(values: Mapping[str, Any], image_size: ImageSize) -> PreprocessConfig:
    """The `preprocess_cfg` of an `open_clip_config.json`; the tower knows the size.

    Raises:
        ConfigError: A value is of the wrong type or unknown here.
    """
    known = {key: values[key] for key in _OPEN_CLIP_KEYS if values.get(key) is not None}
    if known.get("interpolation") == "random":
        known["interpolation"] = "bicubic"  # what open_clip evaluates with
    for key in ("mean", "std"):
        if key in known and isinstance(known[key], (int, float)):
            known[key] = [known[key]] * 3
    return from_dict(PreprocessConfig, {**known, "size": image_size}, where="preprocess_cfg")


def to_open_clip_preprocess(config: PreprocessConfig) -> dict[str, Any]:
    """The `preprocess_cfg` with which open_clip transforms images in the same way."""
    if config.resize_mode == "native":
        raise ConfigError("open_clip resizes images to one shape; resize_mode must not be 'native'")
    if config.interpolation == "nearest":
        raise ConfigError("open_clip resizes images with 'bicubic' or 'bilinear', not 'nearest'")
    return {
        "size": config.size,
        "mode": "RGB",
        "mean": list(config.mean),
        "std": list(config.std),
        "interpolation": config.interpolation,
        "resize_mode": config.resize_mode,
        "fill_color": config.fill_color,
    }


def from_hugging_face_preprocess(
    values: Mapping[str, Any], image_size: ImageSize
) -> PreprocessConfig:
    """The transform of a `preprocessor_config.json`; the tower knows the size.

    Raises:
        ConfigError: It asks for something that a `PreprocessConfig` cannot express.
    """
    if as_table(values, "preprocessor_config").get("do_resize", True) is not True:
        raise ConfigError("do_resize must be true; images become as large as the tower's input")
    if (
        values.get("do_rescale", True) is not True
        or abs(values.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9
    ):
        raise ConfigError("rescale_factor must be 1/255; pixels are values from 0 to 255")
    if values.get("resample", 3) not in _RESAMPLING:
        raise ConfigError(f"resample must be one of {_RESAMPLING}, got {values['resample']!r}")
    if "max_num_patches" in values or _is_siglip2(values):
        return _read_naflex(values, image_size)
    size = values.get("size", image_size)
    whole = isinstance(size, Mapping) and "height" in size
    crops = values.get("do_center_crop", not whole)
    if not whole and not crops:
        raise ConfigError("do_center_crop must be true where size is the shortest edge")
    scaled, cropped = _side("size", size), _side("crop_size", values.get("crop_size") or size)
    if crops and scaled != cropped:
        raise ConfigError(
            f"size is {scaled} and crop_size {cropped}; they must be equal, for the crop here is "
            "as large as the shorter side"
        )
    described = {
        "size": image_size,
        **_read_normalization(values, PreprocessConfig.mean, PreprocessConfig.std),
        "interpolation": _RESAMPLING[values.get("resample", 3)],
        "resize_mode": "squash" if whole else "shortest",
    }
    return from_dict(PreprocessConfig, described, where="preprocessor_config")


def _is_siglip2(values: Mapping[str, Any]) -> bool:
    return str(values.get("image_processor_type", "")).startswith("Siglip2ImageProcessor")


def _read_naflex(values: Mapping[str, Any], image_size: ImageSize) -> PreprocessConfig:
    """The transform of a `Siglip2ImageProcessor`, with its defaults."""
    half = (0.5, 0.5, 0.5)
    described = {
        "size": image_size,
        **_read_normalization(values, half, half),
        "interpolation": _RESAMPLING[values.get("resample", 2)],
        "resize_mode": "native",
        "patch_size": values.get("patch_size", 16),
        "max_tokens": values.get("max_num_patches", 256),
    }
    return from_dict(PreprocessConfig, described, where="preprocessor_config")


def _read_normalization(
    values: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Mean and deviation of a file, where it has none the given ones."""
    if not values.get("do_normalize", True):
        return {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    return {"mean": values.get("image_mean") or mean, "std": values.get("image_std") or std}


def _side(key: str, size: Any) -> int:
    """The side of a square, from a number or a table of the shortest edge or of both sides."""
    sides = list(size.values()) if isinstance(size, Mapping) else [size]
    if not sides or any(side != sides[0] or type(side) is not int for side in sides):
        raise ConfigError(f"{key} must be one number or equal sides, got {size!r}")
    return int(sides[0])


def to_hugging_face_preprocess(config: PreprocessConfig, *, kind: str) -> dict[str, Any]:
    """The `preprocessor_config.json` with which transformers transforms images in the same way.

    Args:
        config: Of the images.
        kind: The model's `model_type`: "clip", "siglip" or "siglip2".

    Raises:
        ConfigError: transformers' image processor of such a model has no such transform.
    """
    if (kind == "siglip2") != (config.resize_mode == "native"):
        raise ConfigError(
            "transformers' Siglip2ImageProcessor keeps the aspect ratio, and its others do not: "
            f"resize_mode of a {kind} model cannot be {config.resize_mode!r}"
        )
    described = _describe_naflex(config) if kind == "siglip2" else _describe_fixed(config, kind)
    number = {name: number for number, name in _RESAMPLING.items()}[config.interpolation]
    return {
        **described,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": number,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }


def _describe_naflex(config: PreprocessConfig) -> dict[str, Any]:
    """What is `Siglip2ImageProcessor`'s own."""
    return {
        "image_processor_type": "Siglip2ImageProcessor",
        "patch_size": config.patch_size,
        "max_num_patches": config.max_tokens,
    }


def _describe_fixed(config: PreprocessConfig, kind: str) -> dict[str, Any]:
    """The size and crop of `CLIPImageProcessor` and `SiglipImageProcessor`."""
    if config.resize_mode == "longest":
        raise ConfigError(
            "transformers' image processors do not pad images; resize_mode must not be 'longest'"
        )
    height, width = sides_of(config.size)
    side = {"height": height, "width": width}
    crop = config.resize_mode == "shortest"
    if kind == "siglip" and crop:
        raise ConfigError("transformers' SiglipImageProcessor squashes images, it does not crop")
    if crop and height != width:
        raise ConfigError("transformers' image processors crop squares only; use 'squash'")
    size = {"shortest_edge": config.size} if crop else side
    if kind == "siglip":
        return {"image_processor_type": "SiglipImageProcessor", "size": size}
    described = {"image_processor_type": "CLIPImageProcessor", "size": size}
    return {**described, "do_center_crop": crop, "crop_size": side}

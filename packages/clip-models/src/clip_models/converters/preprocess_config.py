"""Preprocessing in the files of open_clip and transformers, read and written."""

from __future__ import annotations

from collections.abc import Mapping
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
    normalized = values.get("do_normalize", True)
    mean = values.get("image_mean") or PreprocessConfig.mean
    std = values.get("image_std") or PreprocessConfig.std
    described = {
        "size": image_size,
        "mean": mean if normalized else (0.0,) * 3,
        "std": std if normalized else (1.0,) * 3,
        "interpolation": _RESAMPLING[values.get("resample", 3)],
        "resize_mode": "squash" if whole else "shortest",
    }
    return from_dict(PreprocessConfig, described, where="preprocessor_config")


def _side(key: str, size: Any) -> int:
    """The side of a square, from a number or a table of the shortest edge or of both sides."""
    sides = list(size.values()) if isinstance(size, Mapping) else [size]
    if not sides or any(side != sides[0] or type(side) is not int for side in sides):
        raise ConfigError(f"{key} must be one number or equal sides, got {size!r}")
    return int(sides[0])


def to_hugging_face_preprocess(config: PreprocessConfig, *, siglip: bool) -> dict[str, Any]:
    """The `preprocessor_config.json` with which transformers transforms images in the same way.

    Raises:
        ConfigError: `resize_mode` is "longest", which its image processors of CLIP lack.
    """
    if config.resize_mode == "longest":
        raise ConfigError(
            "transformers' image processors do not pad images; resize_mode must not be 'longest'"
        )
    height, width = sides_of(config.size)
    side = {"height": height, "width": width}
    crop = config.resize_mode == "shortest"
    if siglip and crop:
        raise ConfigError("transformers' SiglipImageProcessor squashes images, it does not crop")
    if crop and height != width:
        raise ConfigError("transformers' image processors crop squares only; use 'squash'")
    number = {name: number for number, name in _RESAMPLING.items()}[config.interpolation]
    return {
        "image_processor_type": "SiglipImageProcessor" if siglip else "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": config.size} if crop else side,
        "resample": number,
        **({} if siglip else {"do_center_crop": crop, "crop_size": side}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }

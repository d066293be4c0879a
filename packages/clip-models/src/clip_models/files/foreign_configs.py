"""A model's configs in the files of other libraries."""

from __future__ import annotations

from typing import Any, NamedTuple

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.converters.hugging_face_config import to_hugging_face_config
from clip_models.converters.open_clip_config import to_open_clip
from clip_models.converters.preprocess_config import (
    to_hugging_face_preprocess,
    to_open_clip_preprocess,
)
from clip_models.errors import ConfigError


class ForeignConfigs(NamedTuple):
    """Contents of other libraries' files; None, and a reason, where a library lacks the model."""

    open_clip: dict[str, Any] | None
    hugging_face: dict[str, Any] | None
    hugging_face_preprocess: dict[str, Any] | None
    reasons: tuple[str, ...]


def make_open_clip_config(config: CLIPConfig, preprocess: PreprocessConfig) -> dict[str, Any]:
    """The contents of `open_clip_config.json`.

    Raises:
        ConfigError: open_clip has no such model or transform.
    """
    return {
        "model_cfg": to_open_clip(config),
        "preprocess_cfg": to_open_clip_preprocess(preprocess),
    }


def make_hugging_face_configs(
    config: CLIPConfig, preprocess: PreprocessConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of `config.json` and `preprocessor_config.json`.

    Raises:
        ConfigError: transformers has no such model or transform.
    """
    model = to_hugging_face_config(config)
    return model, to_hugging_face_preprocess(preprocess, kind=model["model_type"])


def make_foreign_configs(config: CLIPConfig, preprocess: PreprocessConfig) -> ForeignConfigs:
    """The contents of the config files of every library that has such a model."""
    reasons: list[str] = []
    open_clip = hugging_face = images = None
    try:
        open_clip = make_open_clip_config(config, preprocess)
    except ConfigError as error:
        reasons.append(str(error))
    try:
        hugging_face, images = make_hugging_face_configs(config, preprocess)
    except ConfigError as error:
        reasons.append(str(error))
    return ForeignConfigs(open_clip, hugging_face, images, tuple(reasons))

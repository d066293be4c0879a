"""A model's config by its name or from a JSON file of any library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_models.command_line import read_small_file
from clip_models.config.clip_config import CLIPConfig
from clip_models.config.named_models import get_config
from clip_models.config.preprocess_config import (
    PreprocessConfig,
    get_preprocess_config,
    guess_preprocess_config,
)
from clip_models.config.strict import from_dict
from clip_models.converters.clipa_config import from_clipa, is_clipa
from clip_models.converters.hugging_face_config import from_hugging_face_config
from clip_models.converters.open_clip_config import from_open_clip
from clip_models.converters.preprocess_config import from_open_clip_preprocess
from clip_models.errors import CheckpointError, ConfigError
from clip_models.files.weight_files import refuse_placeholder

SUFFIX = ".json"


def resolve_named(model: str | Path) -> tuple[CLIPConfig, PreprocessConfig]:
    """The config and preprocessing of a registered name or of a file `.json`.

    Raises:
        ConfigError: The name is not registered, or the file describes no model.
        CheckpointError: The file cannot be read.
    """
    if Path(model).suffix == SUFFIX and not Path(model).is_dir():
        return read_config_file(Path(model))
    return get_config(str(model)), get_preprocess_config(str(model))


def read_config_file(path: Path) -> tuple[CLIPConfig, PreprocessConfig]:
    """The config and preprocessing in a JSON file.

    Read are `clip_config.json` or its part `model`, open_clip's `open_clip_config.json` or model
    config, CLIPA's, and transformers' `config.json` of a CLIP or SigLIP.

    Raises:
        ConfigError: The file describes no model.
        CheckpointError: The file cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; name the JSON file of a model's config")
    refuse_placeholder(path)
    try:
        values = json.loads(read_small_file(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} holds a {type(values).__name__}, expected a model's config")
    try:
        return _convert(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _convert(values: Mapping[str, Any]) -> tuple[CLIPConfig, PreprocessConfig]:
    if "model_cfg" in values or "vision_cfg" in values:
        config = from_clipa(values) if is_clipa(values) else from_open_clip(values)
        given = values.get("preprocess_cfg")
        if given:
            return config, from_open_clip_preprocess(given, config.vision.image_size)
        return config, guess_preprocess_config(config)
    if "model_type" in values:
        config = from_hugging_face_config(values)
        return config, guess_preprocess_config(config)
    if isinstance(values.get("model"), Mapping):
        config = CLIPConfig.from_dict(dict(values["model"]))
        if isinstance(values.get("preprocess"), Mapping):
            return config, from_dict(PreprocessConfig, values["preprocess"], where="preprocess")
        return config, guess_preprocess_config(config)
    if "vision" in values and "text" in values:
        config = CLIPConfig.from_dict(dict(values))
        return config, guess_preprocess_config(config)
    raise ConfigError(
        "expected the config of a model: ours (embed_dim, vision, text), open_clip's (vision_cfg, "
        f"text_cfg) or transformers' (model_type), got the keys {', '.join(map(str, values))[:80]}"
    )

"""Named models, and the one way to make a model."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from clip_models.clip import CLIP
from clip_models.config import CLIPConfig
from clip_models.named_configs import named_configs
from clip_models.strict_config import ConfigError, nearest

_CONFIGS = named_configs()


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_CONFIGS, pattern))


def get_config(name: str) -> CLIPConfig:
    """The registered config of that name.

    Raises:
        ConfigError: There is no such model; the message names the nearest.
    """
    if name not in _CONFIGS:
        raise ConfigError(f"unknown model {name!r}{nearest(name, _CONFIGS)}")
    return _CONFIGS[name]


def create_model(model: str | Path | CLIPConfig) -> CLIP:
    """A CLIP model.

    Args:
        model: A registered name (new random weights), a config (likewise), or the directory of a
            saved model (its weights).

    Raises:
        ConfigError: The name is not registered and is no directory.
    """
    from clip_models.checkpoint import load_model

    if isinstance(model, CLIPConfig):
        return CLIP(model)
    if Path(model).is_dir():
        return load_model(model)[0]
    return CLIP(get_config(str(model)))

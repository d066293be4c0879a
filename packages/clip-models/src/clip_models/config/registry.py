"""Named models."""

from __future__ import annotations

import copy
import fnmatch

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.named import named_configs
from clip_models.config.strict import nearest
from clip_models.errors import ConfigError

_CONFIGS = named_configs()


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_CONFIGS, pattern))


def get_config(name: str) -> CLIPConfig:
    """The registered config of that name, a copy of its own.

    Raises:
        ConfigError: There is no such model; the message names the nearest.
    """
    if name not in _CONFIGS:
        raise ConfigError(f"unknown model {name!r}{nearest(name, _CONFIGS)}")
    return copy.deepcopy(_CONFIGS[name])

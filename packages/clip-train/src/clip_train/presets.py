"""Presets: configs that ship with the package, and how layers of settings are merged."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from clip_models import ConfigError, from_dict, nearest

from clip_train.config import Config


def list_presets() -> list[str]:
    """Names of the presets, sorted."""
    files = resources.files("clip_train").joinpath("presets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """The TOML of a preset.

    Raises:
        ConfigError: There is no such preset; the message names the nearest.
    """
    if name not in list_presets():
        raise ConfigError(f"unknown preset {name!r}{nearest(name, list_presets())}")
    file = resources.files("clip_train").joinpath("presets", f"{name}.toml")
    return file.read_text(encoding="utf-8")


def load_config(preset_or_path: str) -> Config:
    """The config of a preset, or of a TOML file.

    Raises:
        ConfigError: There is no such preset or file, or it says something wrong.
    """
    path = Path(preset_or_path)
    if path.suffix != ".toml" and not path.is_file():
        return parse_config(preset_text(preset_or_path), source=preset_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return parse_config(text, source=preset_or_path)


def parse_config(text: str, *, source: str) -> Config:
    """The config a TOML text describes.

    Raises:
        ConfigError: It is not TOML, or a key or value is wrong; `source` is named.
    """
    try:
        values: Mapping[str, Any] = tomllib.loads(text)
        return from_dict(Config, values)
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{source}: {error}") from None

"""Presets, TOML files, and how layers of settings are merged."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from clip_models import ConfigError
from clip_models.command_line import read_small_file
from clip_models.config import from_dict, nearest

from clip_train.config.run import Config

UNITS = (
    ("train", {"epochs", "samples", "steps"}),
    ("optim", {f"warmup_{unit}" for unit in ("samples", "epochs", "share", "steps")}),
    ("optim", {f"cooldown_{unit}" for unit in ("samples", "epochs", "steps")}),
    *((section, {"every_samples", "every_steps"}) for section in ("eval", "checkpoint", "log")),
)
"""Keys of a section that are one setting in different units; each replaces the others."""


LONG_KEY = re.compile(r"(?:[\w\"'-]+[ \t]*\.[ \t]*){50}")
RENAMED = {("train", "accumulation"): "grad_accum_steps"}
"""Keys of earlier config files and run directories, as (section, key), and their names today."""


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
        hint = nearest(name, list_presets(), "`clip-train presets`")
        raise ConfigError(f"unknown preset {name!r}{hint}")
    file = resources.files("clip_train").joinpath("presets", f"{name}.toml")
    return file.read_text(encoding="utf-8")


def load_config(preset_or_path: str) -> Config:
    """The config of a preset, or of a TOML file.

    Raises:
        ConfigError: There is no such preset or file, or a key or value is wrong.
    """
    path = Path(preset_or_path)
    is_name = not path.suffix and path.name == preset_or_path
    if path.is_dir() and preset_or_path not in list_presets():
        has_run = (path / "config.toml").is_file()
        raise ConfigError(
            f"{path} is a directory; expected a preset or a TOML file"
            + (
                f"; `clip-train resume {path}` continues a run, and --model.pretrained {path} "
                "starts from its weights"
                if has_run
                else "; data is named by --data.train"
            )
        )
    if is_name and not path.is_file():
        return parse_config(preset_text(preset_or_path), source=preset_or_path)
    try:
        text = read_small_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    return parse_config(text, source=preset_or_path)


def parse_config(text: str, *, source: str) -> Config:
    """The config of a TOML text, merged into a preset if it has `extends = "PRESET"`.

    Raises:
        ConfigError: It is not TOML, or a key or value is wrong; `source` is named.
    """
    try:
        return from_dict(Config, _with_base(parse_toml(text)))
    except ValueError as error:  # also of numbers with too many digits; a ConfigError is one
        raise ConfigError(f"{source}: {error}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text.

    Raises:
        ValueError: It is not TOML, or nests deeper than a config can.
    """
    if LONG_KEY.search(text):  # the time that tomllib takes for a key grows with its square
        raise ValueError("a key of many parts; expected section.key")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("lists or tables nested without end") from None


def _with_base(values: dict[str, Any]) -> dict[str, Any]:
    """The values merged into the preset they extend, which may extend another one."""
    values = rename_keys(values)
    name = values.pop("extends", None)
    if name is None:
        return values
    if not isinstance(name, str):
        raise ConfigError(f"extends must be the name of a preset, got {name!r}")
    return override(_with_base(tomllib.loads(preset_text(name))), values)


def override(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `values` merged into it, each of which replaces its setting in any unit."""
    kept = dict(base)
    for section, keys in UNITS:
        given = values.get(section)
        if isinstance(given, Mapping) and keys & given.keys():
            kept[section] = {k: v for k, v in kept.get(section, {}).items() if k not in keys}
    return merge(kept, values)


def rename_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the keys of earlier config files under their names today."""
    renamed = dict(values)
    for (section, old), new in RENAMED.items():
        table = renamed.get(section)
        if isinstance(table, Mapping) and old in table:
            renamed[section] = {new if key == old else key: table[key] for key in table}
    return renamed


def merge(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `settings`, nested tables merged."""
    merged = dict(base)
    for key, value in settings.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merge(below, value)
        merged[key] = value
    return merged

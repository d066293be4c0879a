"""The config keys as text for `--help`: name, type, meaning and default of each.

What a key means is said once: in the docstring below its field in `clip_train.config`.
"""

from __future__ import annotations

import json
import shutil
import textwrap
import typing
from typing import Any

from clip_train.config.keys import SHORT_NAMES, ConfigKey, config_keys
from clip_train.config.run import Config

_WORDS = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT"}


def describe_keys(config: Config) -> str:
    """One paragraph per key, section by section; the defaults are the values of `config`."""
    width = min(100, shutil.get_terminal_size().columns) - 2
    short = ", ".join(f"--{name.replace('_', '-')}" for name in SHORT_NAMES)
    lines = ["config keys, in a TOML file or as flags:"]
    lines += textwrap.wrap(f"short names of common keys: {short}", width, break_on_hyphens=False)
    sections: dict[str, list[ConfigKey]] = {}
    for key in config_keys().values():
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    for section, keys in sections.items():
        owner = _find(config, section)
        lines += ["", *textwrap.wrap(f"{section or 'config'}: {_summary(owner.__doc__)}", width)]
        for key in keys:
            field = ".FIELD" if typing.get_origin(key.hint) is dict else ""
            lines.append(f"  --{key.name}{field} {_metavar(key)}")
            doc = f"{key.doc.rstrip('.')} (default: {_show(_find(config, key.name))})"
            lines += textwrap.indent(
                textwrap.fill(doc, width - 6, break_on_hyphens=False), " " * 6
            ).splitlines()
    return "\n".join(lines)


def _find(config: Any, name: str) -> Any:
    for part in filter(None, name.split(".")):
        config = getattr(config, part)
    return config


def _summary(doc: str | None) -> str:
    return (doc or "").partition("\n\n")[0].strip().rstrip(".")


def _metavar(key: ConfigKey) -> str:
    origin, arguments = typing.get_origin(key.hint), typing.get_args(key.hint)
    if origin is typing.Literal:
        words = "|".join(choice or '""' for choice in arguments)
    elif origin is tuple and arguments[-1] is Ellipsis:
        words = f"{_WORDS[arguments[0]]} ..."
    elif origin is tuple:
        words = " ".join(_WORDS[argument] for argument in arguments)
    else:
        words = _WORDS.get(key.hint, "VALUE")
    return f"{words}|None" if key.optional else words


def _show(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, tuple):
        return " ".join(map(_show, value)) or "none"
    if isinstance(value, dict):
        return json.dumps(value) if value else "none"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if not value or " " in value else value
    return str(value).lower() if isinstance(value, bool) else str(value)

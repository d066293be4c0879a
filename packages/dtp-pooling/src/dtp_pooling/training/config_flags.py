"""Keys of a training configuration as flags: `--steps 100`, `--model.width 64`."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from dtp_pooling.strict_config import from_dict, nearest
from dtp_pooling.training.config import TrainingConfig


def config_keys(cls: Any = TrainingConfig, prefix: str = "") -> dict[str, Any]:
    """Types of all values of a configuration class, by dotted names."""
    hints = typing.get_type_hints(cls)
    keys: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        keys |= config_keys(hint, f"{name}.") if dataclasses.is_dataclass(hint) else {name: hint}
    return keys


def split_config_flags(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Texts by dotted key of the arguments that set a key, and the other arguments.

    Raises:
        ValueError: A dotted flag names no key, and the message names the nearest; or a value is
            missing.
    """
    known = config_keys()
    settings: dict[str, str] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        key = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or (key not in known and "." not in key):
            rest.append(word)
            continue
        if key not in known:
            raise ValueError(f"unknown key {key!r}{nearest(key, known)}")
        text = value if equals else next(words, None)
        if text is None:
            raise ValueError(f"--{key} needs a value: --{key} VALUE")
        settings[key] = text
    return settings, rest


def apply_settings(config: TrainingConfig, settings: Mapping[str, str]) -> TrainingConfig:
    """The configuration with texts by dotted key in place of its values.

    A text is the value itself where the key takes words, and JSON otherwise.

    Raises:
        ValueError: There is no such key, and the message names the nearest; or the value does not
            fit it.
    """
    known = config_keys()
    values = dataclasses.asdict(config)
    for key, text in settings.items():
        if key not in known:
            raise ValueError(f"unknown key {key!r}{nearest(key, known)}")
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = _parse(text, known[key])
    return from_dict(TrainingConfig, values)


def _parse(text: str, hint: Any) -> Any:
    if hint is str or typing.get_origin(hint) is typing.Literal:
        return text
    if str in typing.get_args(hint):
        return None if text in ("null", "none") else text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # which the configuration refuses by the key's name

"""Frozen dataclasses from plain dictionaries, refusing what they do not know."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """An instance of the dataclass `cls`; fields that are dataclasses take dictionaries.

    Raises:
        ValueError: A key is no field of the class; the message names the nearest field.
    """
    names = {field.name for field in dataclasses.fields(typing.cast(Any, cls))}
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {sorted(names)}"
            raise ValueError(f"{cls.__name__} has no field {key!r}{hint}")
        nested = dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping)
        given[key] = from_dict(hints[key], value) if nested else value
    return cls(**given)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_one_of(name: str, got: object, alias: Any) -> None:
    """Raise ValueError unless `got` is a member of the Literal `alias`."""
    allowed = typing.get_args(alias)
    require(got in allowed, f"{name} must be one of {allowed}, got {got!r}")

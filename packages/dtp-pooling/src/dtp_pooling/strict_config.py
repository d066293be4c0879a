"""Frozen dataclasses from plain dictionaries, refusing what they do not know and wrong types."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """An instance of the dataclass `cls`; fields that are dataclasses take dictionaries.

    Raises:
        ValueError: A key is no field of the class, and the message names the nearest field; or a
            value is of another type than the field.
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
        hint = hints[key]
        shown = hint.__name__ if isinstance(hint, type) else hint
        require(nested or _fits(hint, value), f"{key} must be {shown}, got {value!r}")
        given[key] = from_dict(hint, value) if nested else value
    return cls(**given)


def _fits(hint: Any, value: object) -> bool:
    """Whether a plain value is of a field's type; the members of a Literal check themselves."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return True
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(argument, value) for argument in arguments)
    if typing.get_origin(hint) is tuple:
        return (
            isinstance(value, list | tuple)
            and len(value) == len(arguments)
            and all(map(_fits, arguments, value))
        )
    number = {int: numbers.Integral, float: numbers.Real}.get(hint)
    if number is not None:
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, hint)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_one_of(name: str, got: object, alias: Any) -> None:
    """Raise ValueError unless `got` is a member of the Literal `alias`."""
    allowed = typing.get_args(alias)
    require(got in allowed, f"{name} must be one of {allowed}, got {got!r}")

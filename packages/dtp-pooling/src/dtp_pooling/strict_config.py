"""Dataclasses from plain dictionaries, with every key and type checked."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def from_dict(cls: type[Config], values: Mapping[str, Any], *, where: str = "") -> Config:
    """An instance of the dataclass `cls`; fields that are dataclasses take dictionaries.

    Args:
        cls: A dataclass.
        values: Plain values by field.
        where: Dotted path of the values in the whole configuration, for messages.

    Raises:
        ValueError: A key is unknown, and the message names the nearest; or a value is of another
            type than the field, or out of range.
    """
    hints = typing.get_type_hints(cls)
    prefix = f"{where}." if where else ""
    known = [f"{prefix}{field.name}" for field in dataclasses.fields(typing.cast(Any, cls))]
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key not in known:
            raise ValueError(f"unknown key {key!r}{nearest(key, known)}")
        hint = hints[name]
        nested = dataclasses.is_dataclass(hint) and isinstance(value, Mapping)
        shown = hint.__name__ if isinstance(hint, type) else hint
        require(nested or _is_of_type(hint, value), f"{key} must be {shown}, got {value!r}")
        arguments[name] = from_dict(hint, value, where=key) if nested else value
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def nearest(key: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known name, else the list of all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def _is_of_type(hint: Any, value: object) -> bool:
    """Whether a plain value is of a field's type; `require_members` checks those of a Literal."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return True
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_is_of_type(argument, value) for argument in arguments)
    if typing.get_origin(hint) is tuple:
        return (
            isinstance(value, list | tuple)
            and len(value) == len(arguments)
            and all(map(_is_of_type, arguments, value))
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


def require_members(config: Any) -> None:
    """Raise ValueError unless each field that is a Literal holds one of its members."""
    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is typing.Literal:
            require_one_of(name, getattr(config, name), hint)


def require_at_least(config: Any, lowest: int, *names: str) -> None:
    """Raise ValueError unless the numbers of these names are as large."""
    for name in names:
        number = getattr(config, name)
        require(number >= lowest, f"{name} must be at least {lowest}, got {number}")

"""Dataclasses from plain dictionaries and back, with every key and type checked.

A frozen dataclass is the one description of a configuration; files (JSON, TOML) and command lines
are read through `from_dict`, which names an unknown key and the nearest known one.

No library replaces this module: msgspec allows one dataclass in a union and cannot forbid unknown
keys of dataclasses; dacite accepts True as an integer and rejects a list for a tuple; pydantic
coerces values unless each class carries a configuration, needs a discriminator on each union and
names no nearest key. The code around any of them would be as long.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from clip_models.errors import ConfigError

T = TypeVar("T")


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build the dataclass `cls` from nested plain values.

    Args:
        cls: A dataclass. Fields may be scalars, tuples, optionals, nested dataclasses, or a union
            of dataclasses that differ in the default of their `kind` field.
        values: The nested mapping, as JSON or TOML gives it.
        where: Dotted path of `values` in the whole configuration, for messages.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type.
    """
    as_table(values, where or "config")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            known = [_join(where, name) for name in fields]
            raise ConfigError(
                f"unknown key {_join(where, key)!r}{nearest(_join(where, key), known)}"
            )
    hints = typing.get_type_hints(cls)
    arguments = {
        key: _convert(hints[key], value, _join(where, key)) for key, value in values.items()
    }
    for name, field in fields.items():
        needed = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if needed and name not in arguments:
            raise ConfigError(f"key {_join(where, name)!r} is missing; it has no default")
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}" if where else str(error)) from None


def to_dict(config: Any) -> dict[str, Any]:
    """The nested plain values of a dataclass, from which `from_dict` makes an equal one.

    Keys whose value is None are left out: TOML has no None, and None is always a default.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None:
            values[field.name] = _plain(value)
    return values


def as_table(values: Any, where: str) -> Mapping[str, Any]:
    """The values as a mapping.

    Raises:
        ConfigError: They are not a table.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a table, got {_show(values)}")
    return values


_FEW = 20  # names that an error still lists


def nearest(key: str, known: typing.Iterable[str], listed_by: str = "") -> str:
    """`; did you mean 'x'?` for the closest known name, else all known names if they are few.

    Args:
        key: Unknown name.
        known: The names there are.
        listed_by: What lists them where they are many, such as "`clip-models list`".
    """
    names = sorted(known)
    folded = {name.casefold(): name for name in names}
    close = [name for name in names if name.casefold() == key.casefold()] or [
        folded[name] for name in difflib.get_close_matches(key.casefold(), folded, n=1, cutoff=0.6)
    ]
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(names) <= _FEW:
        return f"; known: {', '.join(names)}"
    return f"; {listed_by or 'the documentation'} lists the {len(names)} there are"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `hint`, or a ConfigError that names `where`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            choices = ", ".join(map(repr, arguments))
            raise ConfigError(f"{where} must be one of {choices}, got {value!r}")
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is dict:
        return _convert_dict(arguments[1], value, where)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(cast(type, hint), value, where=where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} must be {_name(hint)}, got {_show(value)}")
    return value


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _convert(options[0], value, where)
    by_kind = {_kind(option): option for option in options if dataclasses.is_dataclass(option)}
    if by_kind and isinstance(value, Mapping):
        kind = value.get("kind")
        if kind not in by_kind:
            raise ConfigError(f"{where}.kind is {kind!r}{nearest(str(kind), by_kind)}")
        return from_dict(cast(type, by_kind[kind]), value, where=where)
    for option in options:
        try:
            return _convert(option, value, where)
        except ConfigError:
            continue
    expected = " or ".join(map(_name, options))
    raise ConfigError(f"{where} must be {expected}, got {_show(value)}")


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be a list, got {_show(value)}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{where} must have {len(arguments)} entries, got {len(value)}")
    pairs = enumerate(zip(arguments, value, strict=True))
    return tuple(_convert(hint, item, f"{where}[{i}]") for i, (hint, item) in pairs)


def _convert_dict(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where} must be a table, got {_show(value)}")
    return {key: _convert(hint, item, _join(where, key)) for key, item in value.items()}


def _kind(option: Any) -> str:
    return next(str(f.default) for f in dataclasses.fields(option) if f.name == "kind")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _name(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    if typing.get_origin(hint) is tuple:
        return "a list"
    return names.get(hint, str(getattr(hint, "__name__", hint)))


def _show(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"

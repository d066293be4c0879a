"""Config keys by dotted name, and their values from the words of a command line."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from clip_models import ConfigError
from clip_models.config import from_dict, nearest, to_dict

from clip_train.config.presets import RENAMED, merge, override
from clip_train.config.run import Config

SHORT_NAMES = {
    "batch_size": "train.batch_size",
    "data": "data.train",
    "device": "train.device",
    "epochs": "train.epochs",
    "image_root": "data.image_root",
    "lr": "optim.lr",
    "model": "model.name",
    "precision": "train.precision",
    "pretrained": "model.pretrained",
    "samples": "train.samples",
    "seed": "train.seed",
    "steps": "train.steps",
    "train_data": "data.train",
    "val_data": "data.val",
    "warmup": "optim.warmup_steps",
    "weight_decay": "optim.weight_decay",
    "wd": "optim.weight_decay",
    "workers": "data.workers",
}
"""What everybody types, and the keys it stands for on a command line."""


class ConfigKey(NamedTuple):
    """A key of the config tree."""

    name: str  # dotted, such as `train.batch_size`
    hint: Any  # its type, without None; a list where one value may stand for it
    optional: bool  # whether it may be None
    doc: str

    @property
    def num_words(self) -> float:
        """Maximum number of words it takes on a command line."""
        if typing.get_origin(self.hint) is not tuple:
            return 1
        kinds = typing.get_args(self.hint)
        return math.inf if kinds[-1] is Ellipsis else len(kinds)


@functools.cache
def config_keys() -> Mapping[str, ConfigKey]:
    """All keys by name, in the order of the dataclasses."""
    return {key.name: key for key in _keys_of(Config, "")}


def apply_flags(base: Config, words: Sequence[str]) -> Config:
    """`base` with the values of `--section.key VALUE …` or `--section.key=VALUE`.

    Below `model.vision`, `model.text` and `model.preprocess` a key may name any field of the model,
    and its value is read as TOML (`0.5`, `[1, 2]`, `{kind = "grid"}`), else taken as text.

    Raises:
        ConfigError: A flag names no key, or its value is wrong.
    """
    given: dict[str, Any] = {}
    for name, texts in _read_flags(words).items():
        value = _parse_value(name, texts)
        for part in reversed(name.split(".")):
            value = {part: value}
        given = merge(given, value)
    return from_dict(Config, override(to_dict(base), given))


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the words that set config keys from the rest; returns (rest, flags)."""
    rest: list[str] = []
    flags: list[str] = []
    room = 0.0  # how many of the next words are the last key's values
    for word in words:
        name, equals, _ = word.partition("=")
        if word.startswith("--"):
            name = _key_name(name)
            key = _find_key(name)
            is_key = key is not None or "." in name
            takes = key.num_words if key else math.inf
            room = takes if is_key and not equals else 0
        else:
            is_key = room > 0
            room -= 1
        (flags if is_key else rest).append(word)
    return rest, flags


def unknown_key(name: str) -> ConfigError:
    """The error for an unknown key, which names the nearest one."""
    keys = config_keys()
    section, _, last = name.rpartition(".")
    of_section = [key for key in keys if key.startswith(f"{name}.")]
    if of_section:
        return ConfigError(
            f"{name!r} is a section of keys, such as {', '.join(of_section[:3])}; set one of them"
        )
    same = [key for key in keys if key.rpartition(".")[2] == last]
    depth = min((key.count(".") for key in same), default=0)
    same = [key for key in same if key.count(".") == depth]  # not those of a section's parts
    if (section, last) in RENAMED:
        hint = f"; it is {section}.{RENAMED[section, last]} now"
    elif same:
        hint = f"; did you mean {' or '.join(map(repr, same))}?"
    else:
        hint = nearest(name, keys)
        if not hint.startswith("; did"):
            hint = "; `clip-train run --help` lists all keys"
    return ConfigError(f"unknown key {name!r}{hint}")


def _keys_of(cls: type, prefix: str) -> Iterator[ConfigKey]:
    """The keys of a dataclass and of those nested in it."""
    hints, docs = typing.get_type_hints(cls), _field_docs(cls)
    for field in dataclasses.fields(cls):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _keys_of(typing.cast(type, hint), f"{name}.")
            continue
        optional = False
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            options = [part for part in typing.get_args(hint) if part is not types.NoneType]
            optional = len(options) < len(typing.get_args(hint))
            hint = options[-1]  # the list of `str | tuple[str, ...]`
        yield ConfigKey(name, hint, optional, docs.get(field.name, ""))


def _key_name(flag: str) -> str:
    """The key of a flag, which may be one of the short names."""
    name = flag.removeprefix("--").replace("-", "_")
    return SHORT_NAMES.get(name, name)


def _find_key(name: str) -> ConfigKey | None:
    """The key of that name, or the table of model fields that contains it."""
    keys = config_keys()
    table = keys.get(".".join(name.split(".")[:2]))
    is_field = table is not None and typing.get_origin(table.hint) is dict
    return keys.get(name, table if is_field else None)


def _read_flags(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key as texts."""
    given: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            name = _key_name(flag)
            if _find_key(name) is None:
                raise unknown_key(name)
            given[name] = [value] if equals else []
        elif name:
            given[name].append(word)
        else:
            raise ConfigError(f"unexpected {word!r}; a key is set by --section.key value")
    return given


def _parse_value(name: str, texts: list[str]) -> Any:
    """A plain value as in TOML; `from_dict` reports one of a wrong type."""
    key = _find_key(name)
    assert key is not None
    kinds = typing.get_args(key.hint)
    if typing.get_origin(key.hint) is tuple:
        return [_parse_scalar(kinds[0], text) for text in texts]
    if not texts:
        raise ConfigError(f"--{name} needs a value: --{name} VALUE")
    if len(texts) > 1:
        raise ConfigError(f"--{name} takes one value, got {' '.join(texts)}")
    if key.optional and texts[0] == "None":
        return None
    return _parse_scalar(dict if key.name != name else key.hint, texts[0])


def _parse_scalar(kind: Any, text: str) -> Any:
    try:
        if kind in (int, float):
            return kind(text)
        if kind is bool:
            return {"true": True, "false": False}.get(text.lower(), text)
        if dict in (kind, typing.get_origin(kind)):
            return tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # of TOML too
        pass
    return text


def _field_docs(cls: type) -> dict[str, str]:
    """The string below each field of a class, on one line."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    for field, below in itertools.pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                docs[name] = " ".join(text.split())
    return docs

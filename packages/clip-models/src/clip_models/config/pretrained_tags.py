"""Published weights of named models: open_clip's tags, and where on the hub they are."""

from __future__ import annotations

import fnmatch
import functools
import json
from collections.abc import Mapping
from importlib.resources import files

from clip_models.errors import ConfigError


def list_pretrained(pattern: str = "*") -> list[tuple[str, str]]:
    """Names of models that match a shell pattern, each with a tag of weights, as in open_clip."""
    table = read_table()
    names = sorted(fnmatch.filter(table, pattern))
    return [(name, tag) for name in names for tag in table[name]]


def get_pretrained_repository(name: str, tag: str) -> str:
    """The hub repository with the weights that a tag names.

    Raises:
        ConfigError: The model has no such tag; the message lists those it has.
    """
    tags = read_table().get(name, {})
    if tag not in tags:
        known = f"its tags are {', '.join(tags)}" if tags else "no weights of it are known here"
        raise ConfigError(f"{name} has no tag {tag!r}; {known}")
    return tags[tag]


@functools.cache
def read_table() -> Mapping[str, Mapping[str, str]]:
    """Repositories by model and tag (`scripts/list_open_clip_tags.py` writes the file)."""
    text = (files("clip_models.config") / "pretrained_tags.json").read_text(encoding="utf-8")
    table: dict[str, dict[str, str]] = json.loads(text)
    return table

"""The data that a config names: one source, or several separated by `::`; and its digest."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_eval.data import (
    DEFAULT_TEMPLATES,
    BadSample,
    ClassList,
    ShardCache,
    Source,
    absolute_source,
    is_missing,
    open_source,
)
from clip_models import ConfigError

from clip_train.config.data import DataConfig
from clip_train.data.mixing import MixedSource
from clip_train.data.streaming import ShardStream
from clip_train.shapes.source import ShapesSource, is_shapes

SEPARATOR = "::"
DIGEST_SAMPLES = 8


def open_training_source(data: DataConfig) -> Source:
    """The source that `data.train` names; every sample has captions.

    Raises:
        ConfigError: A source does not exist, or the keys of the config do not fit together.
        DataError: The data cannot be used.
    """
    specs = split_specs(data.train, "data.train")
    if data.weights and len(data.weights) != len(specs):
        raise ConfigError(
            f"data.weights has {len(data.weights)} numbers for the {len(specs)} sources of "
            "data.train; give one for each"
        )
    if data.order == "stream":
        return ShardStream(specs, data)
    parts = [_open_with_captions(data, spec) for spec in specs]
    return parts[0] if len(parts) == 1 else MixedSource(parts)


def open_validation_source(data: DataConfig) -> Source | None:
    """The source that `data.val` names, with classes and labels; None if `data.val` is empty.

    Raises:
        ConfigError: It has no classes or no labels.
        DataError: The data cannot be used.
    """
    if not data.val:
        return None
    source = _open(data, data.val, split=data.val_split, default_split="test")
    if not source.classnames:
        raise ConfigError(
            f"data.val {data.val!r} has no class names; "
            "give an image folder, or shards with classnames.txt and labels"
        )
    try:
        sample = source.read(0)  # a missing label is an error before training, not after it
    except BadSample:
        return source  # the evaluation counts it
    if sample.label is None:
        raise ConfigError(
            f"data.val: {sample.key} of {source.name} has no label; classification needs "
            "class folders or .cls files"
        )
    return source


def split_specs(text: str, name: str) -> list[str]:
    """The sources in a text, which are separated by `::`.

    Args:
        text: The sources.
        name: What holds them, for the message.

    Raises:
        ConfigError: One is empty, as an unset variable makes it.
    """
    specs = text.split(SEPARATOR)
    if not all(map(str.strip, specs)):
        raise ConfigError(
            f"{name} {text!r} has an empty source, which would be the current directory; name "
            f"one on either side of {SEPARATOR}"
        )
    return specs


def list_parts(source: Source) -> tuple[Source, ...]:
    """The sources that a source mixes, or the source itself."""
    return source.parts if isinstance(source, MixedSource) else (source,)


def describe_splits(source: Source) -> str:
    """The splits of a source as the end of a phrase, or nothing."""
    found = list(dict.fromkeys(part.split for part in list_parts(source) if part.split))
    return f" of split {' and '.join(found)}" if found else ""


def describe_data(source: Source, val_source: Source | None) -> dict[str, Any]:
    """What a run reads, for its record."""
    return {
        "train": [_describe(part) for part in list_parts(source)],
        "val": None if val_source is None else _describe(val_source),
    }


def _describe(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "kind": source.kind,
        "samples": len(source),
        "split": source.split,
        "splits": source.splits,
    }


def absolute_spec(spec: str) -> str:
    """Sources separated by `::` with their paths made absolute."""
    return SEPARATOR.join(map(absolute_source, spec.split(SEPARATOR)))


def _open(
    data: DataConfig,
    spec: str,
    *,
    split: str,
    default_split: str,
    templates: Sequence[str] | None = None,
) -> Source:
    if is_shapes(spec):
        if split:
            raise ConfigError(f"{spec} has no splits, got split {split!r}; leave it out")
        return ShapesSource.of(spec)
    if is_missing(spec):
        raise ConfigError(
            f"{spec}: no such file or directory; name your data with --data.train and --data.val, "
            "or draw the shapes set with `clip-train data shapes --out DIR`"
        )
    cache_dir = Path(data.cache_dir).expanduser() if data.cache_dir else None
    return open_source(
        spec,
        classnames=ClassList.read(data.classnames) if data.classnames else None,
        templates=templates,
        split=split or None,
        default_split=default_split,
        image_key=data.image_key,
        caption_key=data.caption_key,
        image_root=data.image_root or None,
        cache=ShardCache(cache_dir, int(data.cache_gb * 1e9)),
    )


def _open_with_captions(data: DataConfig, spec: str) -> Source:
    """A training source; a labeled one gets templates, so that every sample has captions."""
    source = _open(
        *(data, spec), split=data.split, default_split="train", templates=data.templates or None
    )
    if source.classnames and not source.templates:
        warnings.warn(
            f"{source.name} has classes but no caption templates; using {DEFAULT_TEMPLATES[0]!r}. "
            "Set data.templates for better captions",
            stacklevel=2,
        )
        source.templates = DEFAULT_TEMPLATES
    return source


def data_digest(source: Source) -> str:
    """A digest of the keys of some samples, evenly spaced; it does not depend on their location.

    The samples of a stream cannot be addressed, so its digest is of the names of the shards.
    """
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(source, ShardStream):
        digest.update("\n".join(shard.rpartition("/")[2] for shard in source.shards).encode())
        return digest.hexdigest()
    for number in range(DIGEST_SAMPLES):
        index = number * (len(source) - 1) // (DIGEST_SAMPLES - 1)
        try:
            key = source.read(index).key
        except BadSample:
            key = "(unreadable)"
        digest.update(f"{index}:{key}\n".encode())
    return digest.hexdigest()

"""The data that a config names: one source, or several separated by `::`; and its digest."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_eval import PromptSet, choose_prompts, open_data, read_template_list
from clip_eval.data import (
    DEFAULT_TEMPLATES,
    ShardCache,
    Source,
    absolute_source,
    fill_templates,
    is_missing,
)
from clip_models import ConfigError

from clip_train.config.data import DataConfig
from clip_train.data.mixing import MixedSource
from clip_train.data.streaming import ShardStream
from clip_train.shapes.source import ShapesSource, is_shapes

SEPARATOR = "::"


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


def describe_data(source: Source, val_sources: Sequence[Source]) -> dict[str, Any]:
    """What a run reads, for its record."""
    return {
        "train": [_describe(part) for part in list_parts(source)],
        "val": [_describe(one) for one in val_sources],
    }


def _describe(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "kind": source.kind,
        "samples": len(source),
        "split": source.split,
        "splits": source.splits,
    }


def open_named(
    data: DataConfig,
    spec: str,
    *,
    split: str,
    default_split: str,
    classnames: str = "",
    templates: Sequence[str] | None = None,
) -> tuple[Source, PromptSet | None]:
    """One source, with the class names and the prompt set of a standard data set if it is one.

    Args:
        data: Keys that say how tables and shards are read.
        spec: The source as the user named it.
        split: The split to take where there are several; empty for the default.
        default_split: `train` or `test`: what the source is for.
        classnames: A file of class names, or the name of a standard data set.
        templates: Caption templates of a labeled source.

    Raises:
        ConfigError: There is no such source.
        DataError: The data cannot be used.
    """
    if is_shapes(spec):
        if split:
            raise ConfigError(f"{spec} has no splits, got split {split!r}; leave it out")
        return ShapesSource.of(spec), None
    if is_missing(spec):
        raise ConfigError(
            f"{spec}: no such file or directory; name your data with --data.train and --data.val, "
            "or draw the shapes set with `clip-train data shapes --out DIR`"
        )
    cache_dir = Path(data.cache_dir).expanduser() if data.cache_dir else None
    source, prompt_set = open_data(
        spec,
        classnames=classnames or None,
        templates=templates,
        split=split or None,
        default_split=default_split,
        image_key=data.image_key,
        caption_key=data.caption_key,
        label_key=data.label_key,
        first_label=data.first_label,
        image_root=data.image_root or None,
        cache=ShardCache(cache_dir, int(data.cache_gb * 1e9)),
        exif_orientation=data.exif_orientation,
    )
    source.check_labels()
    numbers = [name for name in source.classnames or () if name.isdecimal()]
    if numbers and len(numbers) == len(source.classnames or ()):
        warnings.warn(
            f"{source.name}: all {len(numbers)} class names are bare numbers, so a prompt reads "
            f"{fill_templates(numbers[-1], DEFAULT_TEMPLATES)[0]!r}; name the classes with a file "
            "of folder<TAB>name lines, or a standard data set, in data.classnames",
            stacklevel=2,
        )
    return source, prompt_set


def resolve_templates(
    data: DataConfig, source: Source | None = None, prompt_set: PromptSet | None = None
) -> tuple[str, ...] | None:
    """The templates of `data.templates`, which may name a file or a standard data set.

    Args:
        data: The section of the config.
        source: Chooses among the data sets of a file that has several, by its name; without it the
            templates of such a file are None.
        prompt_set: The prompt set of the source, if it has one.

    Raises:
        ConfigError: They are prompts by class name.
        DataError: There is no such file or data set.
    """
    if not data.templates or "{c}" in data.templates[0]:
        return data.templates or None
    (name,) = data.templates
    given = read_template_list(name)
    templates = given[0] if source is None else choose_prompts(source, prompt_set, given=given)[0]
    if isinstance(templates, Mapping):
        raise ConfigError(
            f"data.templates {name}: expected templates, got prompts by class name, which "
            "`clip-eval run --templates` takes"
        )
    return tuple(templates) if isinstance(templates, Sequence) else None


def absolute_spec(spec: str) -> str:
    """Sources separated by `::` with their paths made absolute."""
    return SEPARATOR.join(map(absolute_source, spec.split(SEPARATOR)))


def _open_with_captions(data: DataConfig, spec: str) -> Source:
    """A training source; a labeled one gets templates, so that every sample has captions."""
    templates = resolve_templates(data)
    source, prompt_set = open_named(
        *(data, spec),
        split=data.split,
        default_split="train",
        classnames=data.classnames,
        templates=templates,
    )
    if data.templates and templates is None:
        source.templates = resolve_templates(data, source, prompt_set)
    if source.classnames and not source.templates:
        known = prompt_set is not None and prompt_set.templates is not None
        hint = f", as in --data.templates {prompt_set.name}" if prompt_set and known else ""
        warnings.warn(
            f"{source.name} has classes but no caption templates; using {DEFAULT_TEMPLATES[0]!r}. "
            f"Set data.templates for better captions{hint}",
            stacklevel=2,
        )
        source.templates = DEFAULT_TEMPLATES
    return source

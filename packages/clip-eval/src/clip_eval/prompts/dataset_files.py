"""Class names and templates of several data sets in one JSON file, as CLIP_benchmark keeps them.

`{data set: [names]}`, `{data set: [templates]}`, or `{data set: {class: [prompts]}}`. The user
names the data set (`FILE.json:NAME`), or it is the one named like the data, or the only one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_eval.data.class_names import ClassList
from clip_eval.data.faults import DataError
from clip_eval.data.samples import Source
from clip_eval.data.splits import role_of
from clip_eval.data.templates import (
    SLOT,
    Templates,
    check_prompts,
    check_templates,
    read_prompts,
)
from clip_eval.data.text_files import normal_form, read_json
from clip_eval.prompts.prompt_sets import PromptSet, canonical_name, find_prompt_set

_PREFIX = re.compile(r"(?:wds_)?(?:vtab-)?")  # of CLIP_benchmark's repositories
_FILE = re.compile(r"\.(tar|csv|tsv|jsonl?|ndjson|parquet|tfrecord)\b.*", re.IGNORECASE)


def split_choice(text: str) -> tuple[str, str]:
    """A file, and the data set in it that `FILE.json:NAME` names; an empty text for none."""
    path, colon, name = text.rpartition(":")
    if colon and name and path.lower().endswith(".json") and not Path(text).is_file():
        return path, name
    return text, ""


def names_of_spec(spec: str) -> tuple[str, ...]:
    """What a data set may be called, from the way it is named: `wds:data/wds_food101/test`."""
    kind, _, path = spec.rpartition(":")
    return _names([kind or path], path)


def names_of_source(source: Source, prompt_set: PromptSet | None = None) -> tuple[str, ...]:
    """What a data set may be called: its prompt set, its kind, its name without the split."""
    return _names(["" if prompt_set is None else prompt_set.name, source.kind], source.name)


def _names(known: Iterable[str], path: str) -> tuple[str, ...]:
    parts = [_FILE.sub("", part) for part in re.split(r"[/\\]", path)]
    named = [part for part in parts if part.strip(".") and not role_of(part) and "{" not in part]
    last = named[-1] if named else ""
    found = map(canonical_name, (*known, last, _PREFIX.sub("", last, count=1)))
    return tuple(dict.fromkeys(filter(None, found)))


@dataclass(frozen=True)
class DatasetTemplates:
    """Templates of several data sets, of which one is chosen when the data is known.

    Attributes:
        path: The file.
        entries: Templates, or prompts by class name, of each data set.
    """

    path: str
    entries: Mapping[str, Any]

    def choose(self, names: Sequence[str], classnames: Sequence[str] = ()) -> tuple[Templates, str]:
        """The templates of a data set, and its name in the file.

        A file of lists with `{c}` may also be one of prompts by class name, which it is if it has
        every class.

        Args:
            names: What the data set may be called.
            classnames: Its classes, in label order.

        Raises:
            DataError: None of the names is in the file, or several are.
        """
        keys = set(map(normal_form, self.entries))
        if classnames and {normal_form(name) for name in classnames} <= keys:
            return check_prompts(self.entries, where=self.path), ""
        name = _choose(self.path, self.entries, names)
        return self.get(name), name

    def get(self, name: str) -> Templates:
        """The templates of the data set of a name.

        Raises:
            DataError: There is none, or it is neither templates nor prompts by class name.
        """
        name = _choose(self.path, self.entries, [name], is_given=True)
        entry, where = self.entries[name], f"{self.path}, {name}"
        if isinstance(entry, dict):
            return check_prompts(entry, where=where)
        if not isinstance(entry, list) or not all(isinstance(text, str) for text in entry):
            raise DataError(f"{where}: expected a list of templates, or prompts by class name")
        return check_templates(entry, where=where)


def read_template_file(text: str) -> tuple[Templates | DatasetTemplates, str]:
    """Templates of a file, or of the data set in it that is named; and that name, if there is one.

    Raises:
        DataError: The file cannot be read, or has no such data set.
    """
    path, name = split_choice(text)
    content = read_json(Path(path)) if path.lower().endswith(".json") else None
    if name and not isinstance(content, dict):
        raise DataError(f"{path}: expected an object of data sets, of which {name!r} is one")
    if isinstance(content, dict) and (name or _may_be_of_datasets(content)):
        found = DatasetTemplates(path, content)
        return (found.get(name), name) if name else (found, "")
    return read_prompts(path), ""


def read_class_file(text: str, names: Sequence[str] = ()) -> ClassList:
    """Class names of a file; of one of several data sets, those of one of them.

    Args:
        text: The file, or `FILE.json:NAME`.
        names: What the data set may be called.

    Raises:
        DataError: The file cannot be read, or it is not clear which data set is meant.
    """
    path, name = split_choice(text)
    content = read_json(Path(path)) if path.lower().endswith(".json") else None
    lists = isinstance(content, dict) and any(isinstance(v, list) for v in content.values())
    if not name and not lists:
        return ClassList.read(path)
    if not isinstance(content, dict) or not lists:
        raise DataError(f"{path}: expected an object of data sets, of which {name!r} is one")
    key = _choose(path, content, [name] if name else names, is_given=bool(name))
    found = content[key]
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise DataError(f"{path}, {key}: expected a list of class names")
    standard = find_prompt_set(key)
    folders = None if standard is None else standard.folders
    are_folders = folders is not None and len(folders) == len(found)
    return ClassList.of(
        dict(zip(folders or (), found, strict=True)) if are_folders else found, may_be_blank=True
    )


def _may_be_of_datasets(content: Mapping[str, Any]) -> bool:
    """Whether an object is one of data sets: of objects, or of lists of templates."""
    values = list(content.values())
    if any(isinstance(value, dict) for value in values):
        return True
    texts = [text for value in values if isinstance(value, list) for text in value]
    return bool(texts) and all(isinstance(text, str) and SLOT in text for text in texts)


def _choose(
    path: str, entries: Mapping[str, Any], names: Sequence[str], *, is_given: bool = False
) -> str:
    """The key of a data set: the only one that has one of the names, or the only one there is."""
    wanted = {canonical_name(name) for name in names} | set(names)
    found = [key for key in entries if key in wanted or canonical_name(key) in wanted]
    if len(found) == 1:
        return found[0]
    if len(entries) == 1 and not is_given:
        return next(iter(entries))
    known = ", ".join(sorted(entries))
    if is_given:
        raise DataError(f"{path}: no data set {names[0]!r}; there are {known}")
    what = f"{' and '.join(found)} both fit the data" if found else "none is named like the data"
    called = f" ({', '.join(names)})" if names and not found else ""
    raise DataError(
        f"{path} has several data sets, and {what}{called}; name one, as in "
        f"{path}:{min(entries, default='NAME')}; there are {known}"
    )

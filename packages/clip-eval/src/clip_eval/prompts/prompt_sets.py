"""Class names, folders and templates of the usual data sets, by name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from clip_eval.data.class_names import ClassList
from clip_eval.data.faults import DataError

IMAGENET = "imagenet1k"
ALIASES = {"imagenet": IMAGENET, "imagenet-v2": "imagenetv2", "imagenet_sketch": "imagenet-sketch"}
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """What is usual for a data set.

    Attributes:
        name: Its name, as CLIP_benchmark has it.
        templates: Caption templates; None where there are none of its own.
        classnames: Class names in label order; None where the data brings them.
        folders: The folder of each class, where it is not called like the class.
    """

    name: str
    templates: tuple[str, ...] | None
    classnames: tuple[str, ...] | None
    folders: tuple[str, ...] | None

    def classes(self) -> ClassList:
        """The class list.

        Raises:
            DataError: There is none.
        """
        if self.classnames is None:
            raise DataError(f"{self.name}: no class names are known here; give a file of them")
        return ClassList.of(
            self.classnames
            if self.folders is None
            else dict(zip(self.folders, self.classnames, strict=True))
        )


def prompt_set_names() -> list[str]:
    """The names of all sets."""
    return sorted(_table())


def find_prompt_set(name: str) -> PromptSet | None:
    """The set of that name, or None: an unknown set gets nobody else's prompts."""
    name = ALIASES.get(name, name)
    if name not in _table():
        return None
    entry = _table()[name]
    base = _table()[entry["like"]] if "like" in entry else entry
    names: Any = base.get("classnames")
    folders: Any = base.get("folders")
    if "folders" in entry and entry is not base:
        name_of = dict(zip(folders, names, strict=True))
        folders = entry["folders"]
        names = [name_of[folder] for folder in folders]
    if entry.get("numbered"):
        folders = [str(label) for label in range(len(names))]
    return PromptSet(
        name=name,
        templates=tuple(base["templates"]) if "templates" in base else None,
        classnames=None if names is None else tuple(names),
        folders=None if folders is None else tuple(folders),
    )


def get_prompt_set(name: str) -> PromptSet:
    """The set of that name.

    Raises:
        DataError: There is none; the message names the nearest.
    """
    found = find_prompt_set(name)
    if found is None:
        near = difflib.get_close_matches(name, [*_table(), *ALIASES], n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise DataError(
            f"{name!r} is neither a file nor a known set; {hint}known are "
            f"{', '.join(prompt_set_names())}"
        )
    return found


def recognise_imagenet(folders: Sequence[str]) -> tuple[PromptSet, tuple[str, ...]] | None:
    """ImageNet's set and the class names of folders that are all its WordNet ids, in their order.

    Returns:
        The set (ImageNet-A or -R where the folders are exactly theirs) and one name per folder;
        None if some folder is no id of ImageNet's.
    """
    if not folders or not all(WORDNET_ID.fullmatch(folder) for folder in folders):
        return None
    found = get_prompt_set(IMAGENET)
    for name in ("imagenet-a", "imagenet-r"):
        candidate = get_prompt_set(name)
        if set(candidate.folders or ()) == set(folders):
            found = candidate
    name_of = dict(zip(found.folders or (), found.classnames or (), strict=True))
    if not set(folders) <= set(name_of):
        return None
    return found, tuple(name_of[folder] for folder in folders)


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = files("clip_eval.prompts").joinpath("prompt_sets.json").read_text(encoding="utf-8")
    return dict(json.loads(text))

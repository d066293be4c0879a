"""Class names, folders and templates of standard data sets, by name."""

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
    """Class names and templates of a standard data set.

    Attributes:
        name: Name of the data set in CLIP_benchmark.
        templates: Caption templates; None if the data set has none.
        classnames: Class names in label order; None where the data brings them.
        folders: Folder of each class, where folders are not named like the classes.
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
            raise DataError(f"{self.name} has no class names; give a file of class names")
        return ClassList.of(
            self.classnames
            if self.folders is None
            else dict(zip(self.folders, self.classnames, strict=True)),
            may_be_blank=True,
        )


def list_prompt_sets() -> list[str]:
    """Names of all prompt sets."""
    return sorted(_load_table())


def canonical_name(name: str) -> str:
    """The usual name of a data set that has several."""
    return ALIASES.get(name, name)


def find_prompt_set(name: str) -> PromptSet | None:
    """The prompt set of a data set; None if the data set is not a standard one."""
    name = canonical_name(name)
    if name not in _load_table():
        return None
    entry = _load_table()[name]
    base = _load_table()[entry["like"]] if "like" in entry else entry
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
    """The prompt set of a standard data set.

    Raises:
        DataError: There is none of that name; the message lists the nearest names.
    """
    found = find_prompt_set(name)
    if found is None:
        near = difflib.get_close_matches(name, [*_load_table(), *ALIASES], n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise DataError(
            f"{name!r} is neither a file nor a standard data set; {hint}known are "
            f"{', '.join(list_prompt_sets())}"
        )
    return found


def recognize_imagenet(folders: Sequence[str]) -> tuple[PromptSet, tuple[str, ...]] | None:
    """ImageNet's prompt set, and the class names of folders that are named by WordNet ids.

    Returns:
        The prompt set (that of ImageNet-A or -R where the folders are exactly theirs) and one class
        name per folder, in the order of the folders; None if a folder is not a class of ImageNet.
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
def _load_table() -> dict[str, dict[str, Any]]:
    text = files("clip_eval.prompts").joinpath("prompt_sets.json").read_text(encoding="utf-8")
    return dict(json.loads(text))

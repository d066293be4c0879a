"""Data as a user names it: the source, its class names, and the prompts that are usual for it."""

from __future__ import annotations

from pathlib import Path

from clip_eval.data.class_names import ClassList
from clip_eval.data.faults import DataError
from clip_eval.data.formats import open_source
from clip_eval.data.samples import Source
from clip_eval.data.templates import Templates, read_prompts
from clip_eval.prompts.prompt_sets import (
    PromptSet,
    find_prompt_set,
    get_prompt_set,
    recognise_imagenet,
)


def open_data(
    spec: str, *, classnames: str | None = None, split: str | None = None, download: bool = True
) -> tuple[Source, PromptSet | None]:
    """A source with the class names in use, and the usual set it is, if it is one.

    Folders that are all WordNet ids of ImageNet get ImageNet's class names.

    Args:
        spec: As for `open_source`.
        classnames: A file of class names, or the name of a usual set.
        split: Which split, where the data has several.
        download: Whether one of torchvision's sets is downloaded where it is not on disk.
    """
    if classnames is not None:
        classes, usual = given_classes(classnames)
        return open_source(spec, classnames=classes, split=split, download=download), usual
    source = open_source(spec, split=split, download=download)
    imagenet = recognise_imagenet(source.classnames or ())
    if imagenet is None:
        return source, find_prompt_set(source.kind)
    known, names = imagenet
    classes = ClassList(names=names, folders=tuple(source.classnames or ()))
    return open_source(spec, classnames=classes, split=split), known


def given_classes(given: str) -> tuple[ClassList, PromptSet | None]:
    """Class names from a file, or those of a usual set with the set.

    Raises:
        DataError: It is neither, or the set has none.
    """
    if Path(given).is_file():
        return ClassList.read(given), None
    usual = get_prompt_set(given)
    return usual.classes(), usual


def given_templates(given: str | None) -> tuple[Templates | None, str]:
    """Templates from a file or a usual set, and where they are from; (None, "") for None.

    Raises:
        DataError: It is neither, or the set has none.
    """
    if given is None:
        return None, ""
    if Path(given).is_file() or Path(given).suffix:
        return read_prompts(given), "--templates"
    usual = get_prompt_set(given)
    if usual.templates is None:
        raise DataError(f"{usual.name} has no templates of its own; give a file of them")
    return usual.templates, f"--templates {usual.name}"

"""Data, class names and templates as a user names them: by a path, or by a standard data set."""

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
    recognize_imagenet,
)


def open_data(
    spec: str, *, classnames: str | None = None, split: str | None = None, download: bool = True
) -> tuple[Source, PromptSet | None]:
    """A source with its class names, and its prompt set if it is a standard data set.

    Folders that are all WordNet ids of ImageNet get ImageNet's class names.

    Args:
        spec: As for `open_source`.
        classnames: A file of class names, or the name of a standard data set.
        split: Which split, where the data has several.
        download: Whether one of torchvision's sets is downloaded where it is not on disk.
    """
    if classnames is not None:
        classes, prompt_set = read_class_list(classnames)
        return open_source(spec, classnames=classes, split=split, download=download), prompt_set
    source = open_source(spec, split=split, download=download)
    imagenet = recognize_imagenet(source.classnames or ())
    if imagenet is None:
        return source, find_prompt_set(source.kind)
    prompt_set, names = imagenet
    classes = ClassList(names=names, folders=tuple(source.classnames or ()))
    return open_source(spec, classnames=classes, split=split), prompt_set


def read_class_list(path_or_name: str) -> tuple[ClassList, PromptSet | None]:
    """Class names from a file, or those of a standard data set together with its prompt set.

    Raises:
        DataError: It is neither a file nor a standard data set, or the data set has no class names.
    """
    if Path(path_or_name).is_file():
        return ClassList.read(path_or_name), None
    prompt_set = get_prompt_set(path_or_name)
    return prompt_set.classes(), prompt_set


def read_template_list(path_or_name: str | None) -> tuple[Templates | None, str]:
    """Templates from a file or of a standard data set, and their origin; (None, "") for None.

    Raises:
        DataError: It is neither a file nor a standard data set, or the data set has no templates.
    """
    if path_or_name is None:
        return None, ""
    if Path(path_or_name).is_file() or Path(path_or_name).suffix:
        return read_prompts(path_or_name), "--templates"
    prompt_set = get_prompt_set(path_or_name)
    if prompt_set.templates is None:
        raise DataError(f"{prompt_set.name} has no templates; give a file of templates")
    return prompt_set.templates, f"--templates {prompt_set.name}"

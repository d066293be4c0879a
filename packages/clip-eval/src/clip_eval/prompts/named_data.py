"""Data, class names and templates as a user names them: by a path, or by a standard data set."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_eval.data.class_names import ClassList
from clip_eval.data.faults import DataError
from clip_eval.data.formats import open_source
from clip_eval.data.samples import Source
from clip_eval.data.templates import DEFAULT_TEMPLATES, Templates
from clip_eval.prompts.dataset_files import (
    DatasetTemplates,
    names_of_source,
    names_of_spec,
    read_class_file,
    read_template_file,
    split_choice,
)
from clip_eval.prompts.prompt_sets import (
    PromptSet,
    find_prompt_set,
    get_prompt_set,
    recognize_imagenet,
)


def open_data(
    spec: str, *, classnames: str | None = None, **options: Any
) -> tuple[Source, PromptSet | None]:
    """A source with its class names, and its prompt set if it is a standard data set.

    Args:
        spec: As for `open_source`.
        classnames: A file of class names (`FILE.json:NAME` for one data set of several), or the
            name of a standard data set; without it the source is recognized as by
            `recognize_source`.
        options: Other arguments of `open_source`, such as `split`.

    Raises:
        DataError: The data, or the class names, cannot be used.
    """
    if classnames is not None:
        classes, prompt_set = read_class_list(classnames, names_of_spec(str(spec)))
        return open_source(spec, classnames=classes, **options), prompt_set
    return recognize_source(open_source(spec, **options))


def recognize_source(source: Source) -> tuple[Source, PromptSet | None]:
    """The source with its class names, and its prompt set if it is a standard data set.

    Classes that are all WordNet ids of ImageNet get ImageNet's names, in the same order: in a
    copy, which shares everything else with the source.
    """
    imagenet = recognize_imagenet(source.classnames or ())
    if imagenet is None:
        return source, find_prompt_set(source.kind)
    prompt_set, names = imagenet
    named = copy.copy(source)
    named.classnames = names
    return named, prompt_set


def choose_prompts(
    source: Source,
    prompt_set: PromptSet | None,
    *,
    given: tuple[Templates | DatasetTemplates | None, str] = (None, ""),
    saved: Templates | None = None,
) -> tuple[Templates | None, str]:
    """The templates of a source, and their origin: the first that there are, in this order.

    Args:
        source: It may bring templates of its own, the third choice.
        prompt_set: Its prompt set, the last choice.
        given: The user's templates and their origin, the first choice; of templates of several
            data sets, those of the data set that the source is.
        saved: Templates saved with the model, the second choice.

    Returns:
        None where there are none, for the default with its warning.

    Raises:
        DataError: It is not clear which of several data sets the source is.
    """
    user, origin = given
    if isinstance(user, DatasetTemplates):
        names = names_of_source(source, prompt_set)
        user, chosen = user.choose(names, source.classnames or ())
        origin = f"{origin}, {chosen}" if chosen else origin
    own = None if prompt_set is None else prompt_set.templates
    name = "" if prompt_set is None else prompt_set.name
    choices: tuple[tuple[Templates | None, str], ...] = (
        (user, origin),
        (saved, "saved with the model"),
        (source.templates, "beside the data"),
        (own, f"prompt set {name}"),
    )
    default = f"default {DEFAULT_TEMPLATES[0]!r}"
    return next((choice for choice in choices if choice[0] is not None), (None, default))


def read_class_list(
    path_or_name: str, names: Sequence[str] = ()
) -> tuple[ClassList, PromptSet | None]:
    """Class names from a file, or those of a standard data set together with its prompt set.

    Args:
        path_or_name: A file, `FILE.json:NAME` for one data set of several, or a standard data set.
        names: What the data may be called, for a file of several data sets.

    Raises:
        DataError: It is neither a file nor a standard data set, or the data set has no class names.
    """
    if Path(split_choice(path_or_name)[0]).is_file():
        return read_class_file(path_or_name, names), None
    prompt_set = get_prompt_set(path_or_name)
    return prompt_set.classes(), prompt_set


def read_template_list(
    path_or_name: str | None,
) -> tuple[Templates | DatasetTemplates | None, str]:
    """Templates from a file or of a standard data set, and their origin; (None, "") for None.

    A file of several data sets, of which none is named, gives `DatasetTemplates`; `choose_prompts`
    takes those of the source.

    Raises:
        DataError: It is neither a file nor a standard data set, or the data set has no templates.
    """
    if path_or_name is None:
        return None, ""
    path = Path(split_choice(path_or_name)[0])
    if path.is_file() or path.suffix:
        found, name = read_template_file(path_or_name)
        return found, f"--templates, {name}" if name else "--templates"
    prompt_set = get_prompt_set(path_or_name)
    if prompt_set.templates is None:
        raise DataError(f"{prompt_set.name} has no templates; give a file of templates")
    return prompt_set.templates, f"--templates {prompt_set.name}"

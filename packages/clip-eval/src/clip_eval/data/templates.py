"""Caption templates: reading them, checking them, and putting class names into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

from clip_eval.data.faults import DataError
from clip_eval.data.text_files import normal_form, read_json, read_text

SLOT = "{c}"
DEFAULT_TEMPLATES = ("a photo of a {c}.",)
TEMPLATES_FILE = "zeroshot_classification_templates.txt"

Templates = Sequence[str] | Mapping[str, Sequence[str]]
"""Templates with `{c}` for every class, or the prompts of each class by its name."""


def fill_template(template: str, classname: str) -> str:
    """The template with the class name in place of every `{c}`; other braces stay as they are."""
    return template.replace(SLOT, classname)


def fill_templates(classname: str, templates: Sequence[str]) -> tuple[str, ...]:
    """The class name put into each template: distinct texts, in the order of the templates."""
    return tuple(dict.fromkeys(fill_template(template, classname) for template in templates))


def check_templates(templates: Sequence[str], *, where: str = "templates") -> tuple[str, ...]:
    """The templates as a tuple, each with at least one `{c}`.

    Raises:
        DataError: No template, or one without the slot.
    """
    if isinstance(templates, str):
        raise DataError(f"{where}: expected a list of templates, got one string {templates!r}")
    for template in templates:
        if SLOT not in template:
            raise DataError(
                f"{where}: template {template!r:.80} has no {SLOT}; write {SLOT} where the class "
                "name belongs"
            )
    if not templates:
        raise DataError(f"{where}: expected at least one template, got none")
    return tuple(templates)


def check_prompts(
    prompts: Mapping[str, Sequence[str]], *, where: str
) -> dict[str, tuple[str, ...]]:
    """Prompts by class name as tuples, each class with at least one.

    Raises:
        DataError: A class without prompts, or something else than lists of texts.
    """
    for name, texts in prompts.items():
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: expected a list of prompts for {name!r}")
        if not texts:
            raise DataError(f"{where}: no prompt for {name!r}")
    if not prompts:
        raise DataError(f"{where}: expected prompts by class name, got none")
    return {normal_form(name): tuple(texts) for name, texts in prompts.items()}


def check_prompting(
    templates: Templates, *, where: str = "templates"
) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Templates, or prompts by class name, in their checked form."""
    if isinstance(templates, Mapping):
        return check_prompts(templates, where=where)
    return check_templates(templates, where=where)


class ClassPrompts(Sequence[tuple[str, ...]]):
    """The prompts of each class, in label order, each made when it is read.

    Twenty thousand classes with eighty templates are 1.6 million prompts; they take no memory here.

    Args:
        classnames: Names in label order.
        templates: Templates with `{c}`, or prompts by class name; in those `{c}` is filled too.

    Raises:
        DataError: No template, one without `{c}`, or a class without prompts.
    """

    def __init__(self, classnames: Sequence[str], templates: Templates) -> None:
        self.classnames = tuple(classnames)
        self.templates = check_prompting(templates, where="prompts")
        if isinstance(self.templates, dict):
            _check_names(self.classnames, self.templates)

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.classnames)

    @overload
    def __getitem__(self, place: int) -> tuple[str, ...]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[str, ...]]: ...

    def __getitem__(self, place: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        """The prompts of one class, or of several."""
        if isinstance(place, slice):
            return [self._fill(name) for name in self.classnames[place]]
        return self._fill(self.classnames[place])

    def _fill(self, name: str) -> tuple[str, ...]:
        templates = self.templates
        texts = templates[normal_form(name)] if isinstance(templates, dict) else templates
        return tuple(fill_template(text, name) for text in texts)


def _check_names(classnames: Sequence[str], prompts: Mapping[str, Sequence[str]]) -> None:
    missing = [name for name in classnames if normal_form(name) not in prompts]
    if missing:
        known = set(map(normal_form, classnames))
        unused = [name for name in prompts if name not in known]
        raise DataError(
            f"no prompts for {len(missing)} of {len(classnames)} classes "
            f"({', '.join(map(repr, missing[:8]))}); prompts of no class: "
            f"{', '.join(map(repr, unused[:8])) or 'none'}"
        )


def read_templates(path: str | Path) -> tuple[str, ...]:
    """Templates from a file: one a line, or a JSON list of strings.

    Raises:
        DataError: The file cannot be read, is empty, or a template has no `{c}`.
    """
    found = read_prompts(path)
    if isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON list of strings")
    return found


def read_prompts(path: str | Path) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Templates as `read_templates`, or a JSON object of class name to its prompts (CuPL's form).

    Raises:
        DataError: The file cannot be read or is empty, a template has no `{c}`, or a class no
            prompt.
    """
    path = Path(path)
    if path.suffix != ".json":
        lines = [line.strip() for line in read_text(path).splitlines()]
        return check_templates([line for line in lines if line], where=str(path))
    found = read_json(path)
    if isinstance(found, dict) and all(isinstance(item, list) for item in found.values()):
        return check_prompts(found, where=str(path))
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise DataError(
            f"{path}: expected a JSON list of strings, or an object of class to prompts"
        )
    return check_templates(found, where=str(path))


def choose_templates(
    given: Sequence[str] | None, *directories: str | Path
) -> tuple[str, ...] | None:
    """The given templates, checked, or else those in the first directory that has some.

    Raises:
        DataError: A template without `{c}`, or an empty list.
    """
    if given is not None:
        return check_templates(given)
    return next(filter(None, map(find_templates, directories)), None)


def find_templates(directory: str | Path) -> tuple[str, ...] | None:
    """Templates from `zeroshot_classification_templates.txt` in a directory, if it is there."""
    path = Path(directory) / TEMPLATES_FILE
    return read_templates(path) if path.is_file() else None

"""Caption templates: where they come from, and how a class name is put into one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from clip_eval.faults import DataError

SLOT = "{c}"
DEFAULT_TEMPLATES = ("a photo of a {c}.",)
TEMPLATES_FILE = "zeroshot_classification_templates.txt"


def fill(template: str, classname: str) -> str:
    """The prompt: ``classname`` in place of every ``{c}``; other braces stay as they are."""
    return template.replace(SLOT, classname)


def check_templates(templates: Sequence[str], *, where: str = "templates") -> tuple[str, ...]:
    """The templates as a tuple, each with at least one ``{c}``.

    Raises:
        DataError: No template, or one without the slot.
    """
    if isinstance(templates, str):
        raise DataError(f"{where}: expected a list of templates, got one string {templates!r}")
    for template in templates:
        if SLOT not in template:
            raise DataError(
                f"{where}: template {template!r} has no {SLOT}; write {SLOT} where the class "
                "name belongs"
            )
    if not templates:
        raise DataError(f"{where}: expected at least one template, got none")
    return tuple(templates)


def read_templates(path: str | Path) -> tuple[str, ...]:
    """Templates from a file: one a line, or a JSON list of strings.

    Raises:
        DataError: The file cannot be read, is empty, or a template has no ``{c}``.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix == ".json":
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: not valid JSON ({error})") from error
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise DataError(f"{path}: expected a JSON list of strings")
    else:
        found = [line.strip() for line in text.splitlines() if line.strip()]
    return check_templates(found, where=str(path))


def find_templates(directory: str | Path) -> tuple[str, ...] | None:
    """Templates from ``zeroshot_classification_templates.txt`` in a directory, if it is there."""
    path = Path(directory) / TEMPLATES_FILE
    return read_templates(path) if path.is_file() else None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file (a byte-order mark is dropped).

    Raises:
        DataError: The file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error

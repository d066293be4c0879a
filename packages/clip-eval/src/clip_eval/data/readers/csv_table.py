"""A CSV or TSV file that lists images with captions, class names or labels."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from clip_eval.data.class_names import ClassList, ClassNames
from clip_eval.data.faults import DataError
from clip_eval.data.patterns import missing_path
from clip_eval.data.samples import ImagePaths
from clip_eval.data.templates import choose_templates
from clip_eval.data.text_files import normal_form, read_text

PATH_COLUMNS = ("filepath", "path", "image", "image_path", "file", "filename", "file_name")
CAPTION_COLUMNS = ("caption", "title", "text")
NUMBER = re.compile(r"(-?[0-9]+)(\.0+)?")
LABEL_COLUMNS = ("label", "class", "classname", "class_name", "cls")


class CsvTable(ImagePaths):
    """One sample per row: a path relative to the file, with a caption or a label or both.

    Columns are found by common names (`filepath`, `caption`/`title`, `label`/`class`
    and the like). Labels are class names, matched by name, or numbers into the class list (`2`,
    or `2.0`, as pandas writes it). The separator is a tab if the header has one, else a
    semicolon or comma.

    Args:
        path: The file, UTF-8 with a header line.
        classnames: Class names in label order, or a mapping of the file's labels to class names;
            the distinct labels in sorted order if None and they are not numbers.
        templates: Caption templates; those beside the file if None.
        image_key: Column of paths, if it has none of the common names.
        caption_key: Column of captions.
        image_root: Directory that paths are relative to, instead of the file's own.

    Raises:
        DataError: No such file, no usable column, no rows, or labels in no class.
    """

    kind = "csv"

    def __init__(
        self,
        path: str | Path,
        *,
        classnames: ClassNames | None = None,
        templates: Sequence[str] | None = None,
        image_key: str = "",
        caption_key: str = "",
        image_root: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.image_root = Path(image_root) if image_root else self.path.parent
        self.name = self.path.stem
        rows = _read_rows(self.path)
        header = list(rows[0]) if rows else []
        require_columns(header, (image_key, caption_key), self.path)
        image = image_key or find_column(header, PATH_COLUMNS)
        if image is None:
            raise DataError(
                f"{path}: expected a column of image paths called one of "
                f"{', '.join(PATH_COLUMNS)}; its columns are {', '.join(header) or 'none'}"
            )
        caption = caption_key or find_column(header, CAPTION_COLUMNS)
        label = find_column(header, LABEL_COLUMNS)
        if caption is None and label is None:
            raise DataError(
                f"{path}: expected a column of captions ({', '.join(CAPTION_COLUMNS)}) or labels "
                f"({', '.join(LABEL_COLUMNS)}); its columns are {', '.join(header)}"
            )
        self.paths = [row[image] for row in rows]
        self.captions = [(row[caption],) if caption and row[caption] else () for row in rows]
        self.templates = choose_templates(templates, self.path.parent)
        found = [row[label] for row in rows] if label else []
        self.classnames, self.labels = _resolve_labels(found, classnames, self.path)


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise missing_path(path)
    text = read_text(path)
    header = text.partition("\n")[0]
    separator = next((mark for mark in "\t;" if mark in header), ",")
    rows = []
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in table:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}: line {table.line_num} has not as many fields as the header; quote "
                    "fields that contain the separator"
                )
            rows.append({name.strip(): value.strip() for name, value in row.items()})
    except csv.Error as error:
        raise DataError(f"{path}: after line {table.line_num}: {error}") from error
    if not rows:
        raise DataError(f"{path}: expected a header line and at least one row")
    return rows


def require_columns(header: Sequence[str], names: Sequence[str], where: Path) -> None:
    """Check that a table has the columns that the user named; an empty name is none.

    Raises:
        DataError: One is missing.
    """
    for name in filter(None, names):
        if name not in header:
            raise DataError(f"{where}: no column {name!r}; its columns are {', '.join(header)}")


def find_column(header: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of the names that a header has, in whatever case."""
    by_lower = {name.lower(): name for name in header}
    return next((by_lower[name] for name in names if name in by_lower), None)


def _resolve_labels(
    found: list[str],
    given: ClassNames | None,
    path: Path,
) -> tuple[tuple[str, ...] | None, list[int]]:
    if not found:
        return None if given is None else ClassList.of(given).names, []
    if "" in found:
        raise DataError(f"{path}: {found.count('')} rows have no label; fill them in, or drop them")
    numbers = [int(match[1]) for match in map(NUMBER.fullmatch, found) if match]
    whole = len(numbers) == len(found)
    if given is None and whole:
        raise DataError(
            f"{path}: labels are numbers, so a class list is needed; give class names in label "
            "order"
        )
    classes = ClassList.of(sorted({normal_form(v) for v in found}) if given is None else given)
    if whole and not set(found) <= set(classes.folders):
        for label in (min(numbers), max(numbers)):
            if not 0 <= label < len(classes.names):
                raise DataError(
                    f"{path}: label {label} is in no class; the class list has {len(classes.names)}"
                )
        return classes.names, numbers
    label_of = {folder: label for label, folder in enumerate(classes.folders)}
    unknown = sorted({value for value in found if normal_form(value) not in label_of})
    if unknown:
        unused = sorted(set(classes.folders) - {normal_form(value) for value in found})
        raise DataError(
            f"{path}: labels do not match the class list. Labels in no class ({len(unknown)}): "
            f"{', '.join(map(repr, unknown[:12]))}. Classes without a row ({len(unused)}): "
            f"{', '.join(map(repr, unused[:12])) or 'none'}"
        )
    return classes.names, [label_of[normal_form(value)] for value in found]

"""Tables that list images: columns by their common names, rows that cannot be used, labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clip_eval.data.class_names import ClassList, ClassNames
from clip_eval.data.faults import DataError, Fault
from clip_eval.data.labels import NUMBER, require_class
from clip_eval.data.samples import ImagePaths
from clip_eval.data.splits import resolve_split, warn_of_split
from clip_eval.data.templates import choose_templates
from clip_eval.data.text_files import normal_form

PATH_COLUMNS = (
    *("filepath", "path", "image", "image_path", "file", "filename", "file_name", "image_name"),
)
CAPTION_COLUMNS = ("caption", "title", "text", "captions", "comment")
LABEL_COLUMNS = ("label", "class", "classname", "class_name", "cls", "labels", "classes")
SPLIT_COLUMN = "split"
SEVERAL = re.compile(r"[;|]")
MOST_FAULTS = 50


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How a table is read: the arguments of `open_source` that concern tables.

    Attributes:
        classnames: Class names in label order, or a mapping of the table's labels to class names;
            the distinct labels in sorted order if None and they are not numbers.
        templates: Caption templates; those beside the file if None.
        split: Which split, where a column `split` tells several.
        default_split: `train` for the split that training reads, instead of evaluation's.
        image_key: Column of paths, if it has none of the common names.
        caption_key: Column of captions.
        label_key: Column of labels.
        first_label: Number of the first class in the table; 0 if None.
        image_root: Directory that paths are relative to, instead of the file's own.
    """

    classnames: ClassNames | None = None
    templates: Sequence[str] | None = None
    split: str | None = None
    default_split: str | None = None
    image_key: str = ""
    caption_key: str = ""
    label_key: str = ""
    first_label: int | None = None
    image_root: str | Path | None = None


class Row(NamedTuple):
    """A row: where it is, and its values by column."""

    where: str
    values: Mapping[str, Any]


@dataclass
class Rows:
    """The rows of a table, and those that cannot be used."""

    header: list[str]
    good: list[Row] = field(default_factory=list)
    bad: list[Fault] = field(default_factory=list)

    def reject(self, where: str, detail: str) -> None:
        """Count a row that cannot be used."""
        self.bad.append(Fault(where=where, reason="bad-row", detail=detail))


class TableSource(ImagePaths):
    """One sample per row: the base class of readers of tables of image paths.

    A value of several labels is a list, or is separated by `;` or `|` in a text.

    Args:
        path: The file.
        rows: Its rows.
        options: How it is read.

    Raises:
        DataError: No usable column or row, labels in no class, or none of the images is there.
    """

    options_type = TableOptions

    def __init__(self, path: Path, rows: Rows, options: TableOptions) -> None:
        self.path = path
        self.name = path.stem
        self.image_root = Path(options.image_root) if options.image_root else path.parent
        keys = (options.image_key, options.caption_key, options.label_key)
        require_columns(rows.header, keys, path)
        image, caption, label = _find_columns(rows.header, options, path)
        self._choose_split(rows, options)
        found = [self._read_row(row, image, caption, label, rows) for row in rows.good]
        kept = [one for one in found if one is not None]
        if not kept or len(rows.bad) > len(kept):
            raise DataError(
                f"{path}: {len(rows.bad)} of {len(rows.bad) + len(kept)} rows cannot be used"
                + (f", such as {rows.bad[0].where}: {rows.bad[0].detail}" if rows.bad else "")
            )
        self.faults = limit_faults(rows.bad)
        self.paths = [one.path for one in kept]
        self.captions = [one.captions for one in kept]
        self.templates = choose_templates(options.templates, path.parent)
        self._set_labels([one.labels for one in kept], options)
        self.check_paths()

    def _choose_split(self, rows: Rows, options: TableOptions) -> None:
        """Keep the rows of one split, where a column tells several."""
        column = find_column(rows.header, (SPLIT_COLUMN,))
        if column is None:
            if options.split is not None:
                raise DataError(
                    f"{self.path}: {self.kind} data has no splits without a column "
                    f"{SPLIT_COLUMN!r}; give the file of the split"
                )
            return
        names = [str(row.values.get(column) or "").strip() for row in rows.good]
        available = dict.fromkeys(names)
        asked, default_split = options.split, options.default_split
        chosen = [
            resolve_split(available, part, default_split=default_split, where=self.path)
            for part in (asked.split("+") if asked else (None,))
        ]
        self.split = "+".join(chosen) or None
        self.splits = tuple(sorted(filter(None, available)))
        self.name = "/".join(filter(None, (self.name, self.split)))
        self.warnings = warn_of_split(
            chosen[0], available, asked=asked, default_split=default_split
        )
        rows.good = [row for row, name in zip(rows.good, names, strict=True) if name in chosen]

    def _read_row(
        self, row: Row, image: str, caption: str | None, label: str | None, rows: Rows
    ) -> _Found | None:
        path = row.values.get(image)
        path = path.get("path") if isinstance(path, dict) else path
        if not isinstance(path, str) or not path.strip():
            rows.reject(row.where, f"no path in column {image!r}")
            return None
        captions = texts_of(row.values.get(caption)) if caption else ()
        labels = values_of(row.values.get(label)) if label else ()
        if caption is None and not labels:
            rows.reject(row.where, f"no label in column {label!r}")
            return None
        return _Found(path.strip(), captions, labels)

    def _set_labels(self, found: Sequence[tuple[str, ...]], options: TableOptions) -> None:
        has_captions = all(self.captions)
        classes = resolve_classes(
            (value for values in found for value in values),
            options.classnames,
            where=self.path,
            is_needed=not has_captions,
        )
        if classes is None:
            if any(found):
                self.warnings = (
                    *self.warnings,
                    "the label numbers are not used, because class names are missing; give a "
                    "class list to use them",
                )
            return
        self.classnames = classes.names
        if not any(found):
            return
        table = label_table(found, classes, options.first_label or 0, where=self.path)
        rows = [tuple(sorted({table[value] for value in values})) for values in found]
        if any(len(row) > 1 for row in rows):
            self.targets = rows
        else:
            self.labels = [row[0] if row else None for row in rows]


class _Found(NamedTuple):
    """What a row holds; labels are texts, of numbers or names."""

    path: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]


def texts_of(value: Any) -> tuple[str, ...]:
    """The texts in a value that is one, or a list with some; blank ones left out."""
    found = value if isinstance(value, list | tuple) else (value,)
    return tuple(text.strip() for text in found if isinstance(text, str) and text.strip())


def values_of(value: Any) -> tuple[str, ...]:
    """The labels in a value, as texts: one, several in a list, or several in a text."""
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(part for item in value for part in values_of(item)))
    if value is None or isinstance(value, bool | dict):
        return ()
    parts = SEVERAL.split(value) if isinstance(value, str) else [str(value)]
    return tuple(dict.fromkeys(normal_form(part.strip()) for part in parts if part.strip()))


def resolve_classes(
    values: Iterable[str], given: ClassNames | None, *, where: object, is_needed: bool
) -> ClassList | None:
    """The class list: the given one, or the distinct labels that are names.

    Args:
        values: The labels.
        given: The list of the user.
        where: The table, for the message.
        is_needed: Whether the samples have nothing else.

    Raises:
        DataError: Labels are numbers, a list is needed, and there is none.
    """
    if given is not None:
        return ClassList.of(given)
    distinct = sorted(set(values))
    if not distinct:
        return None
    if not all(map(NUMBER.fullmatch, distinct)):
        return ClassList.of(distinct)
    if is_needed:
        raise DataError(
            f"{where}: class names are missing: its labels are numbers, so a class list is needed; "
            "give class names in label order"
        )
    return None


def label_table(
    found: Iterable[Sequence[str]], classes: ClassList, first: int, *, where: object
) -> dict[str, int]:
    """The class of each distinct label of a table: by name, or by number if all are numbers.

    Raises:
        DataError: A label is in no class.
    """
    distinct = sorted({value for values in found for value in values})
    label_of = {folder: label for label, folder in enumerate(classes.folders)}
    matches = [NUMBER.fullmatch(value[:40]) for value in distinct]
    numbers = [int(match[1]) for match in matches if match is not None]
    if len(numbers) == len(distinct) and not set(distinct) <= set(label_of):
        for number in (min(numbers), max(numbers)):
            require_class(number, len(classes.names), first=first, where=str(where))
        return {value: number - first for value, number in zip(distinct, numbers, strict=True)}
    unknown = [value for value in distinct if value not in label_of]
    if unknown:
        unused = sorted(set(classes.folders) - set(distinct))
        raise DataError(
            f"{where}: labels do not match the class list. Labels in no class ({len(unknown)}): "
            f"{', '.join(map(repr, unknown[:12]))}. Classes without a row ({len(unused)}): "
            f"{', '.join(map(repr, unused[:12])) or 'none'}"
        )
    return {value: label_of[value] for value in distinct}


def limit_faults(faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """The first faults, and one line for the others."""
    if len(faults) <= MOST_FAULTS:
        return tuple(faults)
    rest = len(faults) - MOST_FAULTS
    more = Fault(where="further rows", reason="bad-row", detail=f"{rest} more cannot be used")
    return (*faults[:MOST_FAULTS], more)


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


def _find_columns(
    header: Sequence[str], options: TableOptions, path: Path
) -> tuple[str, str | None, str | None]:
    """The columns of paths, captions and labels."""
    image = options.image_key or find_column(header, PATH_COLUMNS)
    if image is None:
        raise DataError(
            f"{path}: expected a column of image paths called one of "
            f"{', '.join(PATH_COLUMNS)}; its columns are {', '.join(header) or 'none'}; name it "
            "with --image-key (data.image_key)"
        )
    caption = options.caption_key or find_column(header, CAPTION_COLUMNS)
    label = options.label_key or find_column(header, LABEL_COLUMNS)
    if caption is None and label is None:
        raise DataError(
            f"{path}: expected a column of captions ({', '.join(CAPTION_COLUMNS)}) or labels "
            f"({', '.join(LABEL_COLUMNS)}); its columns are {', '.join(header)}; name them with "
            "--caption-key and --label-key (data.caption_key, data.label_key)"
        )
    return image, caption, label

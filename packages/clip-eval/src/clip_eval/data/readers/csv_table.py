"""A CSV or TSV file that lists images with captions, class names or labels."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_eval.data.faults import DataError
from clip_eval.data.patterns import missing_path
from clip_eval.data.readers.tables import (
    PATH_COLUMNS,
    Row,
    Rows,
    TableOptions,
    TableSource,
    find_column,
)
from clip_eval.data.text_files import read_text

SEPARATORS = "\t|;,"


class CsvTable(TableSource):
    """One sample per row: a path relative to the file, with a caption or labels or both.

    Columns are found by common names (`filepath`, `caption`/`title`, `label`/`class` and the like).
    Labels are class names, matched by name, or numbers into the class list (`2`, or `2.0`, as
    pandas writes it); several are separated by `;` or `|`. The separator is a tab, `|`, `;` or
    comma, whichever the header has. A quoted field is read as pandas does; a row that does not have
    as many fields as the header is one fault.

    Args:
        path: The file, UTF-8 with a header line.
        options: Options of `clip_eval.data.readers.tables.TableOptions`.

    Raises:
        DataError: No such file, no usable column, no rows, or labels in no class.
    """

    kind = "csv"

    def __init__(self, path: str | Path, **options: Any) -> None:
        found = TableOptions(**options)
        super().__init__(Path(path), read_rows(Path(path), found.image_key), found)


def read_rows(path: Path, image_key: str = "") -> Rows:
    """The rows of a table, each of its fields without blanks around it.

    Args:
        path: The file.
        image_key: Name of the column of paths, by which the separator is recognized.

    Raises:
        DataError: No such file, or no row.
    """
    if path.is_dir():
        raise DataError(f"{path}: expected a table, got a directory; give one file in it")
    if not path.is_file():
        raise missing_path(path)
    lines = list(io.StringIO(read_text(path), newline=""))
    with _long_fields():
        if sum(bool(line.strip()) for line in lines) < 2:
            raise DataError(f"{path}: expected a header line and at least one row")
        separator = _find_separator(lines[0], image_key)
        header = [name.strip() for name in _parse_line(lines[0], separator)]
        rows = Rows(header)
        for number, fields in _iter_records(lines, separator, len(header)):
            where = f"{path.name}, line {number + 1}"
            if len(fields) == len(header):
                values = (value.strip() for value in fields)
                rows.good.append(Row(where, dict(zip(header, values, strict=True))))
            else:
                rows.reject(
                    where,
                    f"{len(fields)} fields, the header has {len(header)}; quote fields that "
                    "contain the separator",
                )
    return rows


def _find_separator(header: str, image_key: str) -> str:
    """The first separator that leaves a column of paths, or that the header contains."""
    names = (image_key.lower(),) if image_key else PATH_COLUMNS
    found = [mark for mark in SEPARATORS if mark in header]
    for mark in found:
        if find_column([name.strip() for name in _parse_line(header, mark)], names):
            return mark
    return found[0] if found else ","


def _iter_records(
    lines: Sequence[str], separator: str, width: int
) -> Iterator[tuple[int, list[str]]]:
    """Index of the first line and fields of each record, after the header.

    A quoted field may span lines. A quote without its partner would take the rows that follow into
    its field, so that such a row is read by itself.
    """
    number = 1
    while number < len(lines):
        if not lines[number].strip():
            number += 1
            continue
        fields, taken = _parse_record(lines, number, separator)
        if (len(fields) != width and taken > 1) or not fields:
            fields, taken = _parse_line(lines[number], separator), 1
            if len(fields) != width:
                plain = _parse_line(lines[number], separator, quoted=False)
                fields = plain if len(plain) == width else fields
        yield number, fields
        number += taken


def _parse_record(lines: Sequence[str], number: int, separator: str) -> tuple[list[str], int]:
    """The fields of a record by the rules of CSV, and its lines; no fields if it breaks them."""
    rest = (lines[place] for place in range(number, len(lines)))
    reader = csv.reader(rest, delimiter=separator, strict=True)
    try:
        return next(reader), reader.line_num
    except csv.Error:
        return [], 1


def _parse_line(line: str, separator: str, *, quoted: bool = True) -> list[str]:
    """The fields of one line by itself, whatever its quotes."""
    try:
        text = [line.rstrip("\r\n")]
        if quoted:
            return next(csv.reader(text, delimiter=separator))
        return next(csv.reader(text, delimiter=separator, quoting=csv.QUOTE_NONE))
    except csv.Error:
        return []


@contextmanager
def _long_fields() -> Iterator[None]:
    """Without a bound on the length of a field, which is that of the file."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)

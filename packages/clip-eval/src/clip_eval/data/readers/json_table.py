"""JSON lines, or a JSON list, of objects that describe images with captions or labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clip_eval.data.faults import DataError
from clip_eval.data.patterns import missing_path
from clip_eval.data.readers.tables import Row, Rows, TableOptions, TableSource
from clip_eval.data.text_files import read_text


class JsonTable(TableSource):
    """One sample per object: a path, with a caption or labels or both; any of them may be a list.

    Keys are found by the same names as the columns of a CSV file.

    Args:
        path: The file, UTF-8.
        options: Options of `clip_eval.data.readers.tables.TableOptions`.

    Raises:
        DataError: No such file, no usable key, no rows, or labels in no class.
    """

    kind = "jsonl"

    def __init__(self, path: str | Path, **options: Any) -> None:
        super().__init__(Path(path), _read_rows(Path(path)), TableOptions(**options))


def _read_rows(path: Path) -> Rows:
    if not path.is_file():
        raise missing_path(path)
    text = read_text(path)
    rows = Rows([])
    for number, record in enumerate(_parse(text, path), start=1):
        where = f"{path.name}, row {number}"
        if isinstance(record, dict):
            rows.good.append(Row(where, record))
        else:
            rows.reject(where, f"expected a JSON object, got {str(record)[:60]}")
    rows.header = list(dict.fromkeys(name for row in rows.good for name in row.values))
    if not rows.good:
        raise DataError(f"{path}: expected one JSON object a line, or a list of them")
    return rows


def _parse(text: str, path: Path) -> list[Any]:
    """The values of a JSON list, or of each line; a line that is none as its text."""
    if text.lstrip().startswith("["):
        try:
            return list(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not valid JSON ({error})") from error
    return [_parse_line(line) for line in text.split("\n") if line.strip()]


def _parse_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line.strip()

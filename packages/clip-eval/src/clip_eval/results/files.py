"""Reading and writing files: each appears whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clip_eval.data.bounds import TEXT, read_bounded
from clip_eval.data.storage import atomic_path
from clip_eval.errors import EvaluationError

RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.jsonl"
REPORT_FILE = "report.html"


def prepare_output(directory: Path) -> None:
    """Make the directory and check that it can be written, before any work is done.

    Raises:
        EvaluationError: It cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise EvaluationError(f"--out {directory} cannot be written ({error.strerror})") from error


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise an error if a file or directory would be replaced without `--overwrite`.

    Raises:
        EvaluationError: It exists, and `overwrite` is not set.
    """
    if not overwrite and os.path.lexists(path):
        raise EvaluationError(f"{path} exists already; choose another --out, or --overwrite")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; NaN, which others write, is read as None.

    Raises:
        EvaluationError: It cannot be read, or is something else.
    """
    (found,) = parse_json([read_text(path)], path)
    return found


def read_text(path: Path) -> str:
    """The text of a file of a result.

    Raises:
        EvaluationError: It cannot be read, is no regular file, too large, or not UTF-8.
    """
    try:
        return read_bounded(path, TEXT).decode("utf-8")
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read ({error})") from error


def parse_json(texts: Iterable[str], path: Path) -> list[dict[str, Any]]:
    """The JSON objects that texts of a file hold; NaN, which others write, is read as None.

    Raises:
        EvaluationError: One is no JSON, or something else than an object.
    """
    try:
        found = [json.loads(text, parse_constant=lambda _: None) for text in texts]
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path} cannot be read ({error})") from error
    for value in found:
        if not isinstance(value, dict):
            where = "one JSON object a line" if path.suffix == ".jsonl" else "a JSON object"
            raise EvaluationError(f"{path}: expected {where}, got {type(value).__name__}")
    return found


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: beside its place, flushed to disk, then renamed.

    A file name that is no UTF-8 comes as surrogates, which JSON and pages show as `\\udcXX`.

    Raises:
        EvaluationError: It cannot be written; what was there before is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written ({error.strerror})") from error


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write strict JSON (no NaN), indented."""
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one strict JSON object a line."""
    lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
    write_text(path, "".join(f"{line}\n" for line in lines))

"""Reading and writing files: each appears whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise EvaluationError(f"{path}: expected a JSON object, got {type(found).__name__}")
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

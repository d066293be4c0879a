"""Results on disk: finding, reading and checking them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_eval.errors import EvaluationError
from clip_eval.results.files import PREDICTIONS_FILE, RESULT_FILE, parse_json, read_json, read_text
from clip_eval.results.result import result_from_record

NAMES = ("model", "dataset", "task", "task_name", "content", "pretrained", "language")
OBJECTS = ("metrics", "ci95", "settings", "details", "cost")
TEXTS = ("faults", "warnings", "classnames")
COUNTS = ("n", "n_skipped")
NUMBERS = ("chance", "seconds")
SHARES = re.compile(r"(lp_|knn_)?acc\d*|(image|text)_acc|(image|text)_retrieval_recall@\d+")
"""Names of metrics that are a share of right answers."""


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """A result directory: the record of `result.json`, and the predictions if there are some."""

    directory: Path
    record: dict[str, Any]

    @property
    def title(self) -> str:
        """Model and data, for a heading."""
        return f"{self.record.get('model', '?')} on {self.record.get('dataset', '?')}"

    def predictions(self) -> list[dict[str, Any]]:
        """Read the records of the predictions, in order.

        Raises:
            EvaluationError: The file is missing or damaged.
        """
        path = self.directory / PREDICTIONS_FILE
        found = parse_json((line for line in read_text(path).split("\n") if line), path)
        for number, record in enumerate(found, start=1):
            _check_prediction(record, f"{path}: line {number}")
        return found


def find_results(place: str | Path) -> list[StoredResult]:
    """Find the results in a directory and below it, sorted by path; duplicates are listed once.

    Raises:
        EvaluationError: There is none, or one is damaged.
    """
    root = Path(place)
    root = root.parent if root.name == RESULT_FILE else root
    found: dict[object, StoredResult] = {}
    for path in sorted(root.rglob(RESULT_FILE)):
        one = StoredResult(directory=path.parent, record=read_result(path))
        if "metrics" not in one.record:
            raise EvaluationError(f"{path} is no result: it has no metrics")
        key = (one.record.get("settings") or {}).get("key")
        found.setdefault(f"{key} {one.title}" if key else path, one)
    if not found:
        raise EvaluationError(f"{place}: no {RESULT_FILE} in it or below it")
    return list(found.values())


def read_result(path: Path) -> dict[str, Any]:
    """Read the record of a result.

    Raises:
        EvaluationError: It cannot be read, or is no result.
    """
    record = read_json(path)
    check_record(record, path)
    return record


def check_record(record: Mapping[str, Any], path: Path) -> None:
    """Check that a record is one of a result; it may be a stranger's.

    Raises:
        EvaluationError: A value has the wrong type, or is out of range.
    """

    def check(
        values: Mapping[str, Any], names: Iterable[str], good: Callable[[Any], bool], expected: str
    ) -> None:
        for name in names:
            value = values.get(name)
            if value is not None and not good(value):
                raise EvaluationError(
                    f"{path}: expected {name} to be {expected}, got {value!r:.60}"
                )

    check(record, NAMES, lambda value: isinstance(value, str), "text")
    check(record, OBJECTS, lambda value: isinstance(value, dict), "an object")
    check(record, TEXTS, _are_texts, "a list of texts")
    check(record, ("templates",), lambda v: isinstance(v, dict) or _are_texts(v), "a list of texts")
    check(record, NUMBERS, _is_number, "a number")
    check(record, COUNTS, _is_count, "a whole number of at least 0")
    metrics, intervals = record.get("metrics") or {}, record.get("ci95") or {}
    check(metrics, metrics, _is_number, "a number")
    check(metrics, filter(SHARES.fullmatch, metrics), _is_share, "a share from 0 to 1")
    check(intervals, intervals, _are_two, "an interval of two numbers")
    try:
        result_from_record(record)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{path} is no result ({error})") from error


def _check_prediction(record: Mapping[str, Any], where: str) -> None:
    """Check that a record is one of a prediction.

    Raises:
        EvaluationError: It has no key, or a value has the wrong type.
    """
    if not isinstance(record.get("key"), str):
        raise EvaluationError(
            f"{where}: expected the key of a sample, got {record.get('key')!r:.60}"
        )
    for name, (is_kind, expected) in PREDICTION.items():
        value = record.get(name)
        if value is not None and not is_kind(value):
            raise EvaluationError(f"{where}: expected {name} to be {expected}, got {value!r:.60}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _are_two(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


PREDICTION: dict[str, tuple[Callable[[Any], bool], str]] = {
    "index": (_is_count, "a whole number of at least 0"),
    "correct": (lambda value: isinstance(value, bool | int | float), "true or false"),
    "guesses": (_are_texts, "a list of texts"),
    "labels": (_are_texts, "a list of texts"),
    "guess_ids": (_are_numbers, "a list of numbers"),
    "probabilities": (_are_numbers, "a list of numbers"),
    "average_precision": (_is_number, "a number"),
}
"""Kinds of the values of a prediction, where it has them."""

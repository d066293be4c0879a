"""Results that are on disk: where they are, and what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_eval.faults import EvaluationError
from clip_eval.output_files import PREDICTIONS_FILE, RESULT_FILE, read_json


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """A result directory: the record in ``result.json``, and its predictions where they are."""

    directory: Path
    record: dict[str, Any]

    @property
    def title(self) -> str:
        """Model and data, for a heading."""
        return f"{self.record.get('model', '?')} on {self.record.get('dataset', '?')}"

    def predictions(self) -> list[dict[str, Any]]:
        """One record per sample, in order.

        Raises:
            EvaluationError: The file is missing or damaged.
        """
        path = self.directory / PREDICTIONS_FILE
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            return [json.loads(line) for line in lines if line]
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{path} cannot be read ({error})") from error


def find_results(place: str | Path) -> list[StoredResult]:
    """The results in a directory and below it, sorted by path.

    Raises:
        EvaluationError: There is none.
    """
    root = Path(place)
    root = root.parent if root.name == RESULT_FILE else root
    found = [StoredResult(directory=path.parent, record=read_json(path)) for path in _records(root)]
    if not found:
        raise EvaluationError(f"{place}: no {RESULT_FILE} in it or below it")
    return found


def _records(root: Path) -> Iterator[Path]:
    yield from sorted(root.rglob(RESULT_FILE))

"""What a check found: figures beside their peers and limits, and how they are kept."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clip_train.logs.files import replace_text


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        what: What was measured.
        value: The number; None where it could not be had, for the reason in `note`.
        unit: Of `value` and `peer`.
        peer: The number that it is compared with, in the same run.
        peer_name: What that is.
        limit: The most that `value` may be; None for a figure that only informs.
        note: What a reader must know beside it.
    """

    what: str
    value: float | None
    unit: str = ""
    peer: float | None = None
    peer_name: str = ""
    limit: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """`value` over `peer`."""
        return None if self.value is None or not self.peer else self.value / self.peer

    @property
    def holds(self) -> bool | None:
        """Whether the value is within its limit; None without a limit. NaN is not."""
        if self.limit is None:
            return None
        return self.value is not None and self.value <= self.limit


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one check.

    Attributes:
        check: Its name.
        seconds: Wall clock.
        figures: What it measured.
        error: Why it ended early, in one line; None if it did not.
    """

    check: str
    seconds: float
    figures: tuple[Figure, ...] = ()
    error: str | None = None
    machine: dict[str, str] = field(default_factory=dict)


def outcome_path(directory: Path, check: str) -> Path:
    """Where the outcome of a check is kept."""
    return directory / "checks" / f"{check}.json"


def save_outcome(directory: Path, outcome: Outcome) -> None:
    """Keep an outcome; it replaces an earlier one of the same check."""
    path = outcome_path(directory, outcome.check)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(asdict(outcome), indent=1))


def load_outcome(directory: Path, check: str) -> Outcome | None:
    """The outcome of a check, if it is there."""
    path = outcome_path(directory, check)
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    figures = tuple(Figure(**figure) for figure in values.pop("figures"))
    return Outcome(figures=figures, **values)

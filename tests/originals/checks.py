"""What must hold after the commands of a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Check = Callable[[str], None]


def writes(*files: str) -> Check:
    """Files were written."""

    def check(printed: str) -> None:
        for file in files:
            assert Path(file).is_file(), f"{file} was not written"

    return check


def prints(*words: str) -> Check:
    """Words were printed."""

    def check(printed: str) -> None:
        for word in words:
            assert word in printed, f"{word!r} is not in {printed[-500:]}"

    return check


def trains(run: str = "run", steps: int = 2, **columns: Any) -> Check:
    """A finished run of so many steps, whose metrics have these columns."""

    def check(printed: str) -> None:
        rows = [json.loads(x) for x in (Path(run) / "metrics.jsonl").read_text().splitlines()]
        last = [row for row in rows if row["kind"] == "train"][-1]
        assert last["step"] == steps, last
        assert (Path(run) / "model.safetensors").is_file()
        for name in columns:
            assert name.replace("__", "/") in last, sorted(last)

    return check


def evaluates(n: int, folder: str = "results", **values: Any) -> Check:
    """A result over so many images, with these metrics or fields."""

    def check(printed: str) -> None:
        result = json.loads((Path(folder) / "result.json").read_text())
        assert result["n"] == n, result["n"]
        for name, value in values.items():
            if value is ...:
                assert name in result["metrics"], sorted(result["metrics"])
            else:
                assert len(result[name]) == value, (name, len(result[name]))

    return check


def both(*checks: Check) -> Check:
    """All of them."""

    def check(printed: str) -> None:
        for one in checks:
            one(printed)

    return check

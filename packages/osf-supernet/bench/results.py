"""Measured numbers on disk: what is there is not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Results:
    """Measured numbers by run and name, written as soon as they are there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.json"
        self.data: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def measure(self, run: str, name: str, function: Callable[[], Any]) -> Any:
        """The stored value, or the function's, stored and printed."""
        rows = self.data.setdefault(run, {})
        if name not in rows:
            rows[name] = function()
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.data, indent=1) + "\n")
            partial.replace(self.path)
            print(f"{run} {name}: {json.dumps(rows[name])[:300]}", flush=True)
        return rows[name]

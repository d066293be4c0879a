"""Names of result directories."""

from __future__ import annotations

import re
from collections.abc import Sequence


def name_directories(descriptions: Sequence[str]) -> list[str]:
    """Return a distinct directory name for each description of a model or of data."""
    found: list[str] = []
    for description in descriptions:
        parts = [part for part in re.split(r"[/\\]", description) if part not in ("", ".", "..")]
        name = re.sub(r"[^\w.@+-]+", "-", "-".join(parts[-2:])).strip("-.") or "data"
        number = 2
        while name in found:
            name = f"{name.rsplit('~', 1)[0]}~{number}"
            number += 1
        found.append(name)
    return found

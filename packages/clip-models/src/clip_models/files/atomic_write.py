"""Files written in one step: under another name, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary file to write; it is flushed to disk and takes the place of `path` when done."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file in one step."""
    save_text(path, json.dumps(values, indent=2) + "\n")


def save_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors in one step."""
    plain: dict[str, Tensor] = {}
    places: set[tuple[int, int]] = set()
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = (value.data_ptr(), value.numel())
        plain[key] = value.clone() if place in places else value  # shared weights are written twice
        places.add(place)
    with replace_file(Path(path)) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(plain, temporary, metadata={"format": "pt"})
        temporary.chmod(mode)  # safetensors makes files that only their owner can read

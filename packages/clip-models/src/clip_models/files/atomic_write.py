"""Files written in one step: under another name, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def naming(path: Path, *, temporary: Path | None = None, whole: str = "") -> Iterator[None]:
    """Say in errors of writing a file which one it is, which Python often leaves out.

    Args:
        path: The file that the user knows.
        temporary: What is written in its place.
        whole: What is still there; by default whether the file is.

    Raises:
        OSError: With the name of the file.
    """
    try:
        yield
    except OSError as error:
        places = (None, str(path), str(temporary))
        if error.filename not in places and error.filename2 != str(temporary):
            raise
        kept = "the earlier file is unchanged" if path.exists() else "there is no part of it"
        reason = f"{error.strerror or error}; {whole or kept}"
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary file to write; it is flushed to disk and takes the place of `path` when done.

    Raises:
        OSError: It cannot be written; what was at `path` stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path, temporary=temporary):
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # a read-only file system refuses this too
            temporary.unlink(missing_ok=True)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file in one step."""
    with replace_file(path) as temporary:
        shutil.copyfile(source, temporary)


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
        try:
            save_file(plain, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise _system_error(error) from None
        temporary.chmod(mode)  # safetensors makes files that only their owner can read


def _system_error(error: SafetensorError) -> OSError:
    """The error of the system that safetensors only quotes."""
    quoted = re.search(r"\(os error (\d+)\)", str(error))
    number = int(quoted[1]) if quoted else errno.EIO
    return OSError(number, os.strerror(number) if quoted else str(error))

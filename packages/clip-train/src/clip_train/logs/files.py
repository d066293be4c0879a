"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dtp_pooling.checkpoint_files import naming


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path to write to; what was written is flushed to disk and replaces `file`."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with naming(file, temporary=partial):
            yield partial
            with open(partial, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(partial, file)
    finally:
        with suppress(OSError):  # a read-only file system refuses this too
            partial.unlink(missing_ok=True)


def replace_text(file: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a text file of lines, the same on all systems."""
    with naming(file, whole="other files are whole"):
        file.write_bytes("".join(f"{line}\n" for line in lines).encode())

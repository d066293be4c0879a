"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Give an error of writing a file its name, which Python leaves out of most.

    Raises:
        OSError: With the name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(file)) from error


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path to write to; what was written is flushed to disk and replaces `file`."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with naming(file):
            yield partial
            with open(partial, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(file: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a text file of lines, the same on all systems."""
    with naming(file):
        file.write_bytes("".join(f"{line}\n" for line in lines).encode())

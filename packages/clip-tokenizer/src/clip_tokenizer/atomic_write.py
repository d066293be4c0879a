"""Files written in one step: under another name, then renamed, so that none is half written."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
    """Give a temporary file of an unused name to write, which replaces `path` at the end.

    Raises:
        OSError: It cannot be written; what was at `path` stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path, temporary=temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # a read-only file system refuses this too
            temporary.unlink(missing_ok=True)


def save_text(path: Path, text: str) -> None:
    """Write a text file in one step, with line feeds on every system."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")

"""Files that the package writes: in one step, under locks, below the user's cache directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"


def cache_directory() -> Path:
    """Where downloads and indices go: `$XDG_CACHE_HOME/clip-eval` or `~/.cache/clip-eval`.

    Raises:
        OSError: The user has no home directory, and the variable is not set.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "clip-eval"
    except RuntimeError as error:
        raise FileNotFoundError(
            errno.ENOENT, "the user has no home directory; set XDG_CACHE_HOME", "~"
        ) from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: written to by the caller, then flushed to disk and renamed.

    Where the caller fails, the temporary file is removed and what was at `path` stays.

    Raises:
        OSError: The file cannot be written, flushed or renamed; it names `path`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename not in (None, str(path), str(temporary)):
            raise
        kept = "the earlier file is unchanged" if path.exists() else "there is no part of it"
        detail = f"{error.strerror or error}; {kept}"
        raise OSError(error.errno or errno.EIO, detail, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # a read-only file system refuses this too
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a lock between processes; it ends with the process, so none can be left behind."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

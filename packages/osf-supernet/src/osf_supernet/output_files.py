"""Files and directories that commands and folders write: whole or not there, never by accident."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from osf_supernet.checkpoint_files import naming
from osf_supernet.run_lock import RunLock, is_unused, set_aside


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends without an error.

    Raises:
        OSError: It cannot be written; what was at `path` stays.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with naming(path, temporary=partial):
            yield partial
            partial.replace(path)
    finally:
        with suppress(OSError):  # a read-only file system refuses this too
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    with replace_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def require_new_directory(directory: Path, *, overwrite: bool = False) -> None:
    """Refuse a directory that holds anything, unless it may be set aside.

    Raises:
        FileExistsError: It holds something, and `overwrite` is false.
    """
    if not is_unused(directory) and not overwrite:
        raise FileExistsError(
            f"{directory} already exists and is not empty; choose another --out, or pass "
            "--overwrite to set it aside"
        )


def make_new_directory(directory: Path, *, overwrite: bool = False) -> None:
    """Make an empty directory; what is there is renamed to `NAME.old-K`.

    Raises:
        FileExistsError: It holds something, and `overwrite` is false.
        RunInUseError: A training or search is writing to it.
    """
    require_new_directory(directory, overwrite=overwrite)
    directory = directory.absolute()  # "." would become the directory that is set aside
    if directory.is_dir() and not is_unused(directory):
        with RunLock(directory) as lock:
            lock.directory = set_aside(directory)
    elif directory.exists() and not directory.is_dir():
        set_aside(directory)
    directory.mkdir(parents=True, exist_ok=True)

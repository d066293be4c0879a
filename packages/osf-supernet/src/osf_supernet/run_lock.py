"""Run directories that one process at a time writes to, and that appear complete or not at all.

A lock is `flock` on a file in the directory. It ends with the process that holds it, however that
ends. On network file systems it excludes processes of other machines where the server supports
locks, as NFS does since Linux 2.6.12; where there are no locks at all, a warning says so.
Packages that import no sibling each hold this file, word for word; a test compares the copies.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import os
import secrets
import shutil
import socket
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LOCK_NAME, PARTIAL_NAME = ".lock", ".partial"
_IN_USE = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class RunInUseError(OSError):
    """Another process writes to the directory."""


class RunLock:
    """The lock of a run directory, held until `release` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        """Args:
        directory: An existing directory.

        Raises:
            RunInUseError: Another process holds its lock, or this one does.
        """
        _close_in_forked_children()
        self.directory = directory
        self._file: int | None = None
        while self._file is None:
            self._file = self._acquire()

    def release(self) -> None:
        """Let others in; a second call does nothing."""
        if self._file is None:
            return
        if self._is_ours():  # removed while it is held: others notice that, and make a new one
            self._path.unlink(missing_ok=True)
        _held.discard(self._file)
        os.close(self._file)
        self._file = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def _path(self) -> Path:
        return self.directory / LOCK_NAME

    def _acquire(self) -> int | None:
        """The open file, locked; None if it was removed meanwhile, to try again."""
        file = self._file = _open(self._path)
        try:
            _flock(file, self.directory)
            if not self._is_ours():
                os.close(file)
                return None
            with contextlib.suppress(OSError):  # a full disk; the lock is held all the same
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except BaseException:
            self._file = None
            os.close(file)
            raise
        _held.add(file)
        return file

    def _is_ours(self) -> bool:
        """Whether the path still leads to the open file."""
        assert self._file is not None
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return False


def start_run(
    directory: Path,
    fill: Callable[[Path], object],
    *,
    last: str,
    is_occupied: Callable[[], bool],
) -> RunLock:
    """Make a run directory, in one rename, and hold its lock.

    Whatever ends the preparation leaves no directory that looks like a run, and what was there
    before as it was.

    Args:
        directory: Made with its parents; an occupied one is renamed to `NAME.old-K`.
        fill: Called with another directory, to write what the new one begins with.
        last: Name of the file by which a run directory is known; an empty directory of the
            user's, which is kept, gets it last.
        is_occupied: Whether the directory holds anything to set aside; it may refuse, by an error.

    Raises:
        RunInUseError: Another process writes to the directory, or has just made it.
    """
    directory = Path(os.path.realpath(directory))
    if not directory.is_dir():
        return _make_beside(directory, fill, replace=is_occupied())
    lock = RunLock(directory)
    try:
        if is_occupied():
            with lock:
                return _make_beside(directory, fill, replace=True, old=lock)
        partial = directory / PARTIAL_NAME
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            fill(partial)
            for path in sorted(partial.iterdir(), key=lambda path: path.name == last):
                path.replace(directory / path.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return lock
    except BaseException:
        lock.release()
        raise


def is_unused(directory: Path) -> bool:
    """Whether there is no such path, or an empty directory but for what this module leaves."""
    if not directory.is_dir():
        return not directory.exists()
    return {path.name for path in directory.iterdir()} <= {LOCK_NAME, PARTIAL_NAME}


def set_aside(path: Path) -> Path:
    """Rename `path` to the first free `NAME.old-N` and return that."""
    path = path.absolute()
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.old-{number}")):
        number += 1
    return path.rename(aside)


def _make_beside(
    directory: Path, fill: Callable[[Path], object], *, replace: bool, old: RunLock | None = None
) -> RunLock:
    """Fill a directory beside, and rename it; `old` is the lock of a directory to replace."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(directory)
    partial = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}{PARTIAL_NAME}")
    partial.mkdir()
    lock: RunLock | None = None
    try:
        lock = RunLock(partial)
        fill(partial)
        if replace:
            aside = set_aside(directory)
            if old is not None:
                old.directory = aside
        elif directory.exists():
            raise RunInUseError(f"{directory} was made by another process; choose another --out")
        partial.rename(directory)
    except BaseException:
        if lock is not None:
            lock.release()
        shutil.rmtree(partial, ignore_errors=True)
        raise
    lock.directory = directory
    return lock


def _remove_leftovers(directory: Path) -> None:
    """Delete what killed preparations of the same directory left."""
    pattern = f".{glob.escape(directory.name)}.*{PARTIAL_NAME}"
    for leftover in directory.parent.glob(pattern):
        try:
            with RunLock(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError:  # in use, or removed meanwhile
            continue


def _open(path: Path) -> int:
    """The lock file, made if need be; a directory from a stranger may hold a link in its place."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        file = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
    else:
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            return file
        os.close(file)
    raise OSError(
        errno.EINVAL, "not a lock file, but a link or another kind of file; delete it", str(path)
    )


def _flock(file: int, directory: Path) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "no flock")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _IN_USE:
            holder = os.pread(file, 200, 0).decode(errors="replace") or "another process"
            raise RunInUseError(
                f"{directory} is in use by {holder}; wait until it ends, or stop it"
            ) from None
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{directory} cannot be locked, because its file system has no locks; make sure that "
            "no other process writes to it",
            stacklevel=4,
        )


_held: set[int] = set()


@functools.cache
def _close_in_forked_children() -> None:
    """From now on a forked data worker, which may outlive its parent, does not hold its locks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    for file in _held:
        os.close(file)
    _held.clear()

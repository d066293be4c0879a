"""The rule for files and fields of a stranger's: regular files only, no larger than a bound.

A size is checked before anything is allocated. What breaks a bound is a counted fault where it is a
sample, and one line where it is a whole file; the line names the variable that raises the bound.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from clip_eval.data.faults import BadSample, DataError, MachineError

MEGABYTE = 2**20
PIPES_OF_THE_SHELL = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Where `<(command)` and standard input are; only the user can name them."""
EXHAUSTED = frozenset(
    getattr(errno, name)
    for name in ("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "ENOSPC", "EDQUOT", "EROFS")
)
"""Errors that say that the machine has run out of something; no file is to blame."""


class Bound(NamedTuple):
    """A bound that the environment may raise."""

    variable: str
    default: int
    unit: int  # what the variable counts in

    def value(self) -> int:
        """The bound, in bytes, pixels or characters.

        Raises:
            DataError: The variable holds something else than a whole number of at least 1.
        """
        text = os.environ.get(self.variable, "")
        if not text:
            return self.default * self.unit
        if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) > 0):
            raise DataError(
                f"{self.variable}: expected a whole number of at least 1, got {text[:40]!r}"
            )
        return int(text) * self.unit


SAMPLE = Bound("CLIP_EVAL_MAX_SAMPLE_MB", 256, MEGABYTE)
"""One image file, or everything that a shard or table holds of one sample."""
TEXT = Bound("CLIP_EVAL_MAX_TEXT_MB", 1024, MEGABYTE)
"""A file that is read whole: a table, an annotation file, a list, an index, metadata."""
CAPTIONS = Bound("CLIP_EVAL_MAX_CAPTION_CHARACTERS", 200_000, 1)
"""All captions of one sample."""
PIXELS = Bound("CLIP_EVAL_MAX_PIXELS", 89_478_485, 1)
"""One image."""


def refuse_larger(size: int, bound: Bound, path: str | Path = "") -> None:
    """Check a number of bytes against a bound.

    Raises:
        OSError: It is larger, with `errno.EFBIG`.
    """
    if size > bound.value():
        most = bound.value() // bound.unit
        detail = f"{size:,} bytes are more than {bound.variable}={most} allows"
        raise OSError(errno.EFBIG, detail, str(path))


def open_regular(path: str | Path) -> int:
    """A descriptor of a regular file; of anything else, which might be read for ever, none.

    Raises:
        OSError: There is no such file, it cannot be opened, or it is no regular file.
    """
    # O_NONBLOCK: opening a pipe, should the file become one meanwhile, waits for nobody.
    _check_kind(os.stat(path), path)
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check_kind(os.fstat(number), path)
    except OSError:
        os.close(number)
        raise
    return number


def _check_kind(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"no regular file but {_kind(status.st_mode)}", str(path))


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_bounded(path: str | Path, bound: Bound) -> bytes:
    """The content of a regular file, or of a pipe that the user's shell made.

    Raises:
        OSError: It cannot be read, is no regular file, or is larger than the bound.
    """
    if str(path).startswith(PIPES_OF_THE_SHELL):
        with open(path, "rb") as stream:
            content = stream.read(bound.value() + 1)
        refuse_larger(len(content), bound, path)
        return content
    with open(open_regular(path), "rb") as file:
        refuse_larger(os.fstat(file.fileno()).st_size, bound, path)
        content = file.read(bound.value() + 1)  # it may grow while it is read
    refuse_larger(len(content), bound, path)
    return content


def raise_bad_sample(error: OSError, key: str) -> NoReturn:
    """Raise what a file that cannot be read means for the sample in it.

    Raises:
        MachineError: The machine has run out of descriptors, memory or disk.
        BadSample: The file is at fault.
    """
    refuse_exhaustion(error, key)
    reason = "too-large" if error.errno == errno.EFBIG else "unreadable"
    raise BadSample(reason, error.strerror or str(error), key) from error


def refuse_exhaustion(error: OSError, where: str) -> None:
    """Stop where the machine has run out of something, however that was reported.

    Raises:
        MachineError: It has.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in EXHAUSTED:
            hint = "; raise `ulimit -n`" if cause.errno in (errno.EMFILE, errno.ENFILE) else ""
            at = f" at {cause.filename}" if cause.filename else ""
            raise MachineError(f"{where}: {cause.strerror}{at}{hint}") from error
        cause = cause.__cause__


def check_captions(captions: Sequence[str], key: str) -> None:
    """Check the length of a sample's captions.

    Raises:
        BadSample: Together they are longer than the bound.
    """
    length = sum(map(len, captions)) + len(captions)
    if length > CAPTIONS.default and length > CAPTIONS.value():
        most = CAPTIONS.value()
        detail = f"captions of {length:,} characters, {CAPTIONS.variable}={most} allows no more"
        raise BadSample("too-large", detail, key)

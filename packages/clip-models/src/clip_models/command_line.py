"""What the six commands have in common: exit codes, one line per error, the parser, torchrun.

0 done; 2 the user's mistake, one line `PROG: error: …` on stderr; 130 interrupted; 1 anything else,
with a traceback.  Packages that know no sibling hold this file each, word for word; a test of the
repository compares them.
"""

from __future__ import annotations

import argparse
import errno
import importlib.metadata
import io
import os
import pkgutil
import stat
import sys
from collections.abc import Callable
from typing import NamedTuple, NoReturn

EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130
MOST_CHARACTERS = 1500  # of an error
MOST_BYTES = 2**30  # of a small file
MOST_PROCESSES = 2**20


class LaunchError(ValueError):
    """What torchrun says in the environment cannot be; or the other processes cannot be joined."""


class Launch(NamedTuple):
    """Which one this process is of those that torchrun started; without torchrun, the only one."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line; sub-commands get the same class.

    Functions of sub-commands are named `module:function`, so that `--help` imports none of them.
    """

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with the code of a user's mistake."""
        line = f"{self.prog}: error: {shorten(message)}; see {self.prog} --help"
        self.exit(EXIT_USER_ERROR, f"{line}\n")

    def add_version(self, distribution: str) -> None:
        """Add `--version`, which prints the installed version of a distribution."""
        version = importlib.metadata.version(distribution)
        self.add_argument("--version", action="version", version=f"{distribution} {version}")


def run_command(
    prog: str, call: Callable[[], int | None], user_errors: tuple[type[Exception], ...] = ()
) -> int:
    """Call a command at the boundary to its user; the exit code.

    Args:
        prog: Name of the command, in front of each line.
        call: Does the work; its result is the exit code, None for 0.
        user_errors: Exceptions whose message is meant for the user.  `OSError`, `MemoryError`,
            `ImportError`, `LaunchError` and undecodable text always are.
    """
    errors: tuple[type[Exception], ...] = (
        UnicodeDecodeError,
        ImportError,
        LaunchError,
        *user_errors,
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal cannot print
            stream.reconfigure(errors="backslashreplace")
    try:
        code = call() or EXIT_DONE
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        print(f"{prog}: {one_line(error) or 'interrupted'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except MemoryError:
        message = "not enough memory; try a smaller --batch-size"
    except errors as error:
        message = str(error)
    print(f"{prog}: error: {shorten(message)}", file=sys.stderr)
    return EXIT_USER_ERROR


def call_named(name: str, *arguments: object) -> int | None:
    """Import `module:function` and call it."""
    function: Callable[..., int | None] = pkgutil.resolve_name(name)
    return function(*arguments)


def read_launch() -> Launch:
    """Which one this process is, as torchrun says in the environment.

    Raises:
        LaunchError: A variable is missing, is no number, or is out of range.
    """
    world_size = _read_number("WORLD_SIZE", 1, MOST_PROCESSES, "1")
    if world_size == 1:
        return Launch()
    rank = _read_number("RANK", 0, world_size - 1)
    return Launch(rank, world_size, _read_number("LOCAL_RANK", 0, world_size - 1, "0"))


def _read_number(name: str, least: int, most: int, default: str = "") -> int:
    text = os.environ.get(name, default)
    if text.isascii() and text.isdigit() and len(text) < 8 and least <= int(text) <= most:
        return int(text)
    raise LaunchError(
        f"the environment variable {name} must be a number from {least} to {most} as torchrun sets "
        f"it, got {text!r:.40}; start with torchrun, or unset WORLD_SIZE, RANK and LOCAL_RANK"
    )


def read_small_file(path: str | os.PathLike[str]) -> str:
    """The UTF-8 text of a config, a record or a list.

    Raises:
        OSError: It cannot be read, is a device or another thing without an end, or is larger than
            such a file can be.  A pipe is read where the user's shell made it.
        UnicodeDecodeError: It is no text.
    """
    status = os.stat(path)
    is_own_pipe = os.fspath(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/"))
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode) and not is_own_pipe:
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    if status.st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MOST_BYTES:,} bytes", os.fspath(path))
    with open(path, encoding="utf-8") as file:
        return file.read(MOST_BYTES)


def shorten(message: object) -> str:
    """A message on one line, without its middle where a value in it fills pages."""
    line = one_line(message)
    half = MOST_CHARACTERS // 2
    return line if len(line) <= MOST_CHARACTERS else f"{line[:half]} … {line[-half:]}"


def one_line(message: object) -> str:
    """A message without line breaks or runs of blanks."""
    return " ".join(str(message).split())

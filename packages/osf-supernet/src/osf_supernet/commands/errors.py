"""Whose mistake an exception is: the user's, that of the user's own code, or ours."""

from __future__ import annotations

import argparse
import sys
import sysconfig
import traceback

from osf_supernet.command_line import EXIT_FAILED, call_named, one_line
from osf_supernet.subnets.verification import VerificationError
from osf_supernet.trace.tracing import TraceError
from osf_supernet.training.loop import DivergenceError

_REPORTED = (KeyError, TraceError, TypeError, ValueError)  # where one of our checks raised it
_OUTSIDE = (ImportError, MemoryError, OSError)  # the command line's business, in anybody's code
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def run_body(function: str, options: argparse.Namespace) -> int | None:
    """Call the body of a command, `module:function`.

    A subnet that fails its verification, and a training that diverged, are reported in one line
    with code 1. What the code of
    the user's model raises keeps its traceback, with code 1 too.

    Raises:
        ValueError: One of our checks refused what the user gave.
        OSError, ImportError, MemoryError: As they came.
    """
    try:
        return call_named(function, options)
    except (DivergenceError, VerificationError) as error:
        print(f"osf: error: {one_line(error)}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        if isinstance(error, _OUTSIDE) and not _is_from_user_code(error):
            raise
        if isinstance(error, _REPORTED) and _is_ours(_frames(error)[-1][0]):
            raise ValueError(error.args[0] if error.args else error) from error
        traceback.print_exception(error)
        return EXIT_FAILED


def _is_from_user_code(error: Exception) -> bool:
    """Whether the user's code raised an error, or called the library that did."""
    for module, file in reversed(_frames(error)):
        if _is_ours(module) or not file.startswith((*_INSTALLED, "<")):
            return not _is_ours(module)
    return False


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "osf_supernet"


def _frames(error: Exception) -> list[tuple[str, str]]:
    """(module name, file) of each frame, the innermost last."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [(str(f.f_globals.get("__name__", "")), f.f_code.co_filename) for f in frames]

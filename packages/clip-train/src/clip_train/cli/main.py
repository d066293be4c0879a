"""The `clip-train` command: from words to the function that does the work."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Sequence

from clip_eval import EvaluationError
from clip_eval.data import DataError
from clip_models import CheckpointError, ConfigError
from clip_models.command_line import call_named, one_line, run_command
from clip_tokenizer import TokenizerError

from clip_train.cli.config_help import describe_keys
from clip_train.cli.parser import PROG, make_parser
from clip_train.config.keys import split_flags, unknown_key
from clip_train.config.presets import list_presets, load_config
from clip_train.config.run import Config
from clip_train.errors import (
    BackendError,
    Interrupted,
    RunDirectoryError,
    ShapesError,
    TrainingError,
)

USER_ERRORS = (
    BackendError,
    CheckpointError,
    ConfigError,
    DataError,
    EvaluationError,
    RunDirectoryError,
    ShapesError,
    TokenizerError,
    TrainingError,
)
TAKE_CONFIG_KEYS = ("run", "resume", "supernet")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code."""
    warnings.showwarning = show_warning
    threading.excepthook = _show_thread_error
    words = list(sys.argv[1:] if arguments is None else arguments)
    flags: list[str] = []  # for config keys, or after a lone -- another system's words
    takes_keys = words[:1] and words[0] in TAKE_CONFIG_KEYS
    if takes_keys:
        words, flags = split_flags(words)
    elif "--" in words:
        at = words.index("--")
        words, flags = words[:at], words[at + 1 :]
    parser = make_parser(_describe_keys(words) if takes_keys else "")
    options, rest = parser.parse_known_args(words)
    if options.command == "translate" and not options.file:
        if len(rest) == 1 and not rest[0].startswith("-"):
            options.file = rest.pop()  # argparse sees no positional behind an option
        flags, rest = [*rest, *flags], []  # the words of the other system, also without a lone --
    if rest and options.command not in ("run", "supernet"):  # whose errors name the nearest key
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.flags = flags
    return run_command(PROG, lambda: _call(options, rest), USER_ERRORS)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, in place of Python's two."""
    print(f"{PROG}: warning: {one_line(message)}", file=sys.stderr)


def _show_thread_error(error: threading.ExceptHookArgs) -> None:
    """Say nothing of a file that a thread cannot write: who waits for it meets the error."""
    if not issubclass(error.exc_type, OSError):
        threading.__excepthook__(error)


def _call(options: argparse.Namespace, unknown: list[str]) -> int | None:
    if unknown:
        name, _, _ = unknown[0].partition("=")
        if name.startswith("-"):
            raise unknown_key(name.lstrip("-").replace("-", "_"))
        raise ConfigError(f"unexpected argument {unknown[0]!r}")
    silent = os.environ.get("RANK", "0") != "0"  # under torchrun the first process speaks for all
    try:
        with contextlib.redirect_stdout(io.StringIO()) if silent else contextlib.nullcontext():
            return call_named(options.function, options)
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from None


def _describe_keys(words: list[str]) -> str:
    """The config keys for `--help`, with the values of a preset as defaults if one is named."""
    if not {"-h", "--help"} & set(words):
        return ""
    named = [word for word in words[1:] if word in list_presets()]
    return describe_keys(load_config(named[0]) if named else Config())

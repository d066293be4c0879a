"""The command `clip-tokenizer`: its parser. The bodies are imported when they are called.

What a command reads is a positional argument, files or a pipe; what it writes to disk is `--out`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clip_tokenizer.cleaning import CLEAN_MODES
from clip_tokenizer.command_line import CommandParser, call_named, run_command
from clip_tokenizer.errors import TokenizerError

PROG = "clip-tokenizer"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = build_parser().parse_args(arguments)
    return run_command(PROG, lambda: call_named(options.run, options), (TokenizerError,))


def build_parser() -> CommandParser:
    """The parser of the command and its sub-commands."""
    parser = CommandParser(prog=PROG, description="Text to CLIP token ids and back.")
    parser.add_version("clip-tokenizer")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    encode = _add_command(commands, "encode", "one line of ids for each line of text")
    form = encode.add_mutually_exclusive_group()
    _add_out(form, "FILE.npy", "array (N, T) of padded rows, instead of lines", required=False)
    form.add_argument("--special", action="store_true", help="start and end ids in each line")
    form.add_argument("--json", action="store_true", help="a JSON list of ids in each line")
    _add_overwrite(encode)

    _add_command(commands, "decode", "one line of text for each line of ids")

    count = _add_command(commands, "count", "numbers of lines and tokens, and of lines too long")
    form = count.add_mutually_exclusive_group()
    form.add_argument("--each", action="store_true", help="number of tokens of each line instead")
    form.add_argument("--json", action="store_true", help="the numbers as JSON")

    train = _add_command(commands, "train", "a vocabulary learned from lines of text")
    train.add_argument(
        "--vocab-size", type=int, required=True, help="number of ids in all, at least 514"
    )
    train.add_argument(
        "--min-count", type=int, default=2, help="least count of a pair to merge (default: 2)"
    )
    export = _add_command(commands, "export", "files that Hugging Face libraries load", files=False)
    for command in (train, export):
        _add_out(command, "DIR", "directory for the tokenizer's files", required=True)
        _add_overwrite(command)
    return parser


def _add_command(
    commands: argparse._SubParsersAction[CommandParser],
    name: str,
    summary: str,
    *,
    files: bool = True,
) -> CommandParser:
    """A sub-command with the options that all share."""
    command = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    command.set_defaults(run=f"clip_tokenizer.commands:{name}")
    if files:
        command.add_argument(
            "files", nargs="*", default=["-"], help="UTF-8 text files; - (default) is a pipe"
        )
    if name != "train":
        command.add_argument(
            "--tokenizer",
            default="openai",
            metavar="NAME",
            help="openai (default), bytes, a directory or a hub repository",
        )
        command.add_argument(
            "--allow-special",
            action="store_true",
            default=None,
            help="ids of special tokens for texts that spell them",
        )
    command.add_argument("--clean", choices=CLEAN_MODES, help="cleaning of the texts")
    command.add_argument("--context-length", type=int, help="number of ids in a padded row")
    return command


def _add_out(
    command: argparse._ActionsContainer, metavar: str, what: str, *, required: bool
) -> None:
    command.add_argument("--out", type=Path, metavar=metavar, required=required, help=what)


def _add_overwrite(command: CommandParser) -> None:
    command.add_argument("--overwrite", action="store_true", help="replace existing files")


if __name__ == "__main__":
    sys.exit(main())

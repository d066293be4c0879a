"""The command `clip-tokenizer`: encode, decode, count, train, export, on files and on pipes."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from clip_tokenizer.cleaning import CLEAN_MODES
from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.progress import show_progress
from clip_tokenizer.tokenizer import CONTEXT_LENGTH, Tokenizer

_BLOCK = 4096
_STDIN = "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _build_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except BrokenPipeError:
        # the reader (`head`) has left: send what is still buffered nowhere, quietly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (TokenizerError, ImportError, OSError, UnicodeDecodeError) as error:
        print(f"clip-tokenizer: {error}", file=sys.stderr)
        return 1
    return status


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clip-tokenizer", description="Text to CLIP token ids.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    encode = _add_command(commands, "encode", _encode, "one line of ids per line of text")
    form = encode.add_mutually_exclusive_group()
    form.add_argument(
        "--array", type=Path, metavar="FILE.npy", help="write the padded (N, T) array instead"
    )
    form.add_argument("--special", action="store_true", help="print start and end ids too")
    _add_command(commands, "decode", _decode, "one line of text per line of ids")
    count = _add_command(commands, "count", _count, "lines, tokens, and how many do not fit")
    count.add_argument("--each", action="store_true", help="print the tokens of every line instead")
    train = _add_command(commands, "train", _train, "learn a vocabulary from lines of text")
    train.add_argument("--vocab-size", type=int, required=True, help="ids in all, at least 514")
    train.add_argument("--min-count", type=int, default=2, help="rarer pairs are not merged")
    train.add_argument("--output", type=Path, required=True, metavar="DIR")
    export = _add_command(
        commands, "export", _export, "write the files Hugging Face libraries load", files=False
    )
    export.add_argument("--output", type=Path, required=True, metavar="DIR")
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: object,
    summary: str,
    *,
    files: bool = True,
) -> argparse.ArgumentParser:
    """A subcommand with the options that all share."""
    command = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(run=run)
    if files:
        command.add_argument("files", nargs="*", default=[_STDIN], help="UTF-8; - is a pipe")
    if name != "train":
        command.add_argument(
            "--tokenizer",
            default="openai",
            metavar="WHICH",
            help="openai (default), bytes, a directory, or a hub repository",
        )
        command.add_argument("--allow-special", action="store_true", default=None)
    command.add_argument("--clean", choices=CLEAN_MODES)
    command.add_argument("--context-length", type=int)
    return command


def _load(options: argparse.Namespace) -> Tokenizer:
    """The tokenizer that the options describe; what is not given is the tokenizer's own."""
    names = ("clean", "context_length", "allow_special")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.tokenizer == "openai":
        return Tokenizer.openai(**chosen)
    if options.tokenizer == "bytes":
        return Tokenizer.from_bytes(**chosen)
    return Tokenizer.from_pretrained(options.tokenizer, **chosen)


def _read_sized(files: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The lines of the files without their ends, each with the bytes it took."""
    for name in files:
        with nullcontext(sys.stdin.buffer) if name == _STDIN else open(name, "rb") as stream:
            for number, data in enumerate(stream, start=1):
                try:
                    line = data.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise TokenizerError(
                        f"{name}, line {number} is not UTF-8 ({error.reason} at byte "
                        f"{error.start}); convert the file first"
                    ) from error
                yield line.removesuffix("\n").removesuffix("\r"), len(data)


def _lines(files: Sequence[str]) -> Iterator[str]:
    """The lines of the files, with a progress bar on a terminal."""
    total = None if _STDIN in files else sum(Path(name).stat().st_size for name in files)
    return show_progress(_read_sized(files), total)


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(lines)
    while block := list(itertools.islice(stream, _BLOCK)):
        yield block


def _encode(options: argparse.Namespace) -> int:
    tokenizer = _load(options)
    blocks = _blocks(_lines(options.files))
    if options.array is not None:
        dtype = np.uint16 if tokenizer.vocab_size <= 0x10000 else np.int32
        arrays = [tokenizer.encode_batch(block, dtype=dtype) for block in blocks]
        np.save(options.array, np.concatenate([tokenizer.encode_batch([], dtype=dtype), *arrays]))
        return 0
    around = (tokenizer.sot_token_id, tokenizer.eot_token_id)
    for block in blocks:
        for ids in tokenizer.encode_rows(block).to_list():
            print(*([around[0], *ids, around[1]] if options.special else ids))
    return 0


def _decode(options: argparse.Namespace) -> int:
    tokenizer = _load(options)
    for number, line in enumerate(_lines(options.files), start=1):
        try:
            ids = [int(word) for word in line.split()]
        except ValueError as error:
            raise TokenizerError(f"line {number} must be ids, got {line!r:.60}") from error
        try:
            text = tokenizer.decode(ids)
        except TokenizerError as error:
            raise TokenizerError(f"line {number}: {error}") from error
        print(text)
    return 0


def _count(options: argparse.Namespace) -> int:
    tokenizer = _load(options)
    lines = tokens = longest = too_long = 0
    for block in _blocks(_lines(options.files)):
        lengths = tokenizer.encode_rows(block).lengths
        if options.each:
            print(*lengths.tolist(), sep="\n")
        lines += len(lengths)
        tokens += int(lengths.sum())
        longest = max(longest, int(lengths.max()))
        too_long += int((lengths + 2 > tokenizer.context_length).sum())
    if not options.each:
        print(
            f"{lines} lines, {tokens} tokens, longest {longest}, "
            f"{too_long} do not fit in {tokenizer.context_length} with start and end"
        )
    return 0


def _train(options: argparse.Namespace) -> int:
    length = options.context_length
    tokenizer = Tokenizer.train(
        _lines(options.files),
        options.vocab_size,
        clean=options.clean or "lower",
        min_count=options.min_count,
        context_length=CONTEXT_LENGTH if length is None else length,
    )
    tokenizer.save(options.output)
    print(f"{tokenizer.vocab_size} ids written to {options.output}")
    return 0


def _export(options: argparse.Namespace) -> int:
    _load(options).save(options.output)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

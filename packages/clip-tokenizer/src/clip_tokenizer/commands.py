"""The bodies of the command `clip-tokenizer`. N lines, T context length."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from clip_tokenizer.atomic_write import replace_file
from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.tokenizer import CONTEXT_LENGTH, Tokenizer

STDIN = "-"
BLOCK = 4096
"""Lines that are tokenized at a time."""
LONGEST_LINE = 2**28
"""Bytes of a line, which is held in memory as a whole."""
PROGRESS_DELAY = 1.0
"""Seconds before a progress bar is shown."""


def encode(options: argparse.Namespace) -> None:
    """Print the ids of each line, or write all rows as one array."""
    if options.out is not None:
        _check_array_file(options.out, options.files)
        _require_absent(options.out, options.overwrite)
    tokenizer = _load(options)
    blocks = _blocks(_lines(options.files))
    if options.out is not None:
        dtype = np.uint16 if tokenizer.vocab_size <= 0x10000 else np.int32
        arrays = [tokenizer.encode_batch(block, dtype=dtype) for block in blocks]
        rows = np.concatenate([tokenizer.encode_batch([], dtype=dtype), *arrays])  # (N, T)
        array = io.BytesIO()  # into a file itself, NumPy hides why a disk took no more
        np.save(array, rows)
        with replace_file(options.out) as temporary:
            temporary.write_bytes(array.getbuffer())
        return
    start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
    for block in blocks:
        for ids in tokenizer.encode_rows(block).to_list():
            if options.json:
                print(json.dumps(ids))
            else:
                print(*([start, *ids, end] if options.special else ids))


def decode(options: argparse.Namespace) -> None:
    """Print the text of each line of ids."""
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


def count(options: argparse.Namespace) -> None:
    """Print how many tokens the lines have, in all or each."""
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
    if options.json:
        numbers = {"lines": lines, "tokens": tokens, "longest": longest, "too_long": too_long}
        print(json.dumps({**numbers, "context_length": tokenizer.context_length}))
    elif not options.each:
        print(
            f"{lines} lines, {tokens} tokens, longest {longest}, "
            f"{too_long} do not fit in {tokenizer.context_length} with start and end"
        )


def train(options: argparse.Namespace) -> None:
    """Learn a vocabulary and write its files."""
    _require_directory(options.out, options.overwrite)
    length = options.context_length
    tokenizer = Tokenizer.train(
        _lines(options.files),
        options.vocab_size,
        clean=options.clean or "lower",
        min_count=options.min_count,
        context_length=CONTEXT_LENGTH if length is None else length,
    )
    tokenizer.save(options.out)
    print(f"{tokenizer.vocab_size} ids written to {options.out}")


def export(options: argparse.Namespace) -> None:
    """Write the files of a tokenizer."""
    _require_directory(options.out, options.overwrite)
    _load(options).save(options.out)
    print(f"written to {options.out}")


def _check_array_file(out: Path, files: Sequence[str]) -> None:
    """Check that the output is named as an array, and is none of the inputs."""
    if out.suffix != ".npy":
        raise TokenizerError(
            f"--out writes a NumPy array, so {out} must end in .npy; lines of ids are printed "
            "without --out"
        )
    if out.is_dir():
        raise TokenizerError(f"{out} is a directory; give the name of a file")
    if any(name != STDIN and out.exists() and out.samefile(name) for name in files):
        raise TokenizerError(f"{out} is read and cannot be written at the same time")


def _require_absent(out: Path, overwrite: bool) -> None:
    """Check that the output is new or an empty directory, unless it may be overwritten."""
    if not overwrite and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise TokenizerError(f"{out} exists; add --overwrite to replace its files")


def _require_directory(out: Path, overwrite: bool) -> None:
    """Check that the tokenizer's files can be written there."""
    _require_absent(out, overwrite)
    if out.exists() and not out.is_dir():
        raise TokenizerError(f"{out} is a file; a tokenizer is written to a directory")


def _load(options: argparse.Namespace) -> Tokenizer:
    """The tokenizer that the options describe; others are the tokenizer's defaults."""
    names = ("clean", "context_length", "allow_special")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.tokenizer == "openai":
        return Tokenizer.openai(**chosen)
    if options.tokenizer == "bytes":
        return Tokenizer.from_bytes(**chosen)
    return Tokenizer.from_pretrained(options.tokenizer, **chosen)


def _lines(files: Sequence[str]) -> Iterator[str]:
    """The lines of the files, with a progress bar on a terminal."""
    total = None if STDIN in files else sum(Path(name).stat().st_size for name in files)
    return show_progress(_read_sized(files), total)


def show_progress(
    lines: Iterable[tuple[str, int]], total: int | None, stream: TextIO | None = None
) -> Iterator[str]:
    """The lines, with a progress bar where the input is long and `stream` is a terminal.

    Args:
        lines: Each line with its number of bytes.
        total: Number of bytes in all; None, for a pipe, shows a count without a bar.
        stream: Where the bar is shown; None is standard error.
    """
    with tqdm(
        total=total, unit="B", unit_scale=True, delay=PROGRESS_DELAY, disable=None, file=stream
    ) as bar:
        for line, size in lines:
            bar.update(size)
            yield line


def _read_sized(files: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The lines of the files without their ends, each with its number of bytes."""
    for name in files:
        with nullcontext(sys.stdin.buffer) if name == STDIN else open(name, "rb") as stream:
            lines = iter(partial(stream.readline, LONGEST_LINE + 1), b"")
            for number, data in enumerate(lines, start=1):
                if len(data) > LONGEST_LINE:
                    raise TokenizerError(
                        f"{name}, line {number} has more than {LONGEST_LINE:,} bytes; is it text?"
                    )
                try:
                    line = data.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise TokenizerError(
                        f"{name}, line {number} is not UTF-8 ({error.reason} at byte "
                        f"{error.start}); convert the file first"
                    ) from error
                yield line.removesuffix("\n").removesuffix("\r"), len(data)


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(lines)
    while block := list(itertools.islice(stream, BLOCK)):
        yield block

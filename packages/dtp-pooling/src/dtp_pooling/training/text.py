"""Texts: reading, splits, and the order of training chunks.

N symbols of a text, B batch, L context.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from pathlib import Path

import torch
from torch import Tensor

from dtp_pooling.training.alphabet import BYTES

CHUNK = 2**20
BOMB_BYTES, BOMB_RATIO = 2**26, 100
"""What a compressed text may grow to."""


def digest(text: str) -> str:
    """SHA-256 of the text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode(*BYTES)).hexdigest()


def read_text(path: Path) -> str:
    """The UTF-8 text of a plain, `.gz` or one-member `.zip` file, without a last line break."""
    try:
        raw = _read(path)
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is not a complete {path.suffix} file: {error}") from error
    try:
        text = raw.decode("utf-8-sig")  # a byte-order mark is no letter
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    return text[:-1] if text.endswith("\n") else text


def _read(path: Path) -> bytes:
    if path.suffix == ".gz":
        most = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
        with gzip.open(path) as file:
            parts: list[bytes] = []
            size = 0
            while part := file.read(CHUNK):
                size += len(part)
                _refuse_bomb(size, most, path)
                parts.append(part)
        return b"".join(parts)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise ValueError(f"expected one member in {path}, got {names}; unpack it")
            member = archive.infolist()[0]
            most = max(BOMB_BYTES, BOMB_RATIO * member.compress_size)
            _refuse_bomb(member.file_size, most, path)
            return archive.read(member)
    return path.read_bytes()


def _refuse_bomb(size: int, most: int, path: Path) -> None:
    if size > most:
        raise ValueError(f"{path} would grow to more than {most:,} bytes; unpack it")


def split_text(text: str, alphabet: str = "text8") -> tuple[str, str, str]:
    """Train, validation and test: the first 90 %, the next 5 %, the rest, as for text8 and enwik8.

    They are shares of what the alphabet counts: `bytes`, as is usual for enwik8, or characters.
    """
    symbols = text.encode(*BYTES) if alphabet == "bytes" else text
    first, second = len(symbols) * 90 // 100, len(symbols) * 95 // 100
    parts = (symbols[:first], symbols[first:second], symbols[second:])
    train, valid, test = (part if isinstance(part, str) else part.decode(*BYTES) for part in parts)
    return train, valid, test


def chunk_index(size: int, context: int, batch: int, seed: int, step: int) -> Tensor:
    """(B, L + 1) positions in the training text of one step's inputs and last targets.

    A pure function of its arguments. Every epoch rolls the text by a new random shift, cuts it
    into chunks of L and goes through them in a new random order; a text that is no multiple of
    B L leaves some out.

    Args:
        size: N of the training text.
        context: L.
        batch: B.
        seed: Of the whole run.
        step: Counted from 0 over all epochs.
    """
    chunks = size // context
    if chunks < batch:
        raise ValueError(
            f"a batch of {batch} chunks of {context} needs {batch * context} symbols, got {size}; "
            "lower batch_size or context"
        )
    epoch, place = divmod(step, chunks // batch)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shift = torch.randint(size, (1,), generator=generator)
    order = torch.randperm(chunks, generator=generator)
    chosen = order[place * batch : (place + 1) * batch]
    return (shift + chosen[:, None] * context + torch.arange(context + 1)) % size

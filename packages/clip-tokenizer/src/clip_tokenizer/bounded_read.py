"""Files of strangers, read up to a bound: regular files only, and no more than they may hold."""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path

from clip_tokenizer.errors import TokenizerError

MAX_FILE = 256 * 2**20
"""Bytes of a tokenizer's file; the largest published one has about 40 MB."""
MAX_MERGES_TEXT = 64 * 2**20
"""Bytes of a merges file after unpacking; OpenAI's has 3 MB."""
GZIP = b"\x1f\x8b"
LFS_POINTER = b"version https://git-lfs"


def read_file(path: Path, *, limit: int = MAX_FILE) -> bytes:
    """The bytes of a regular file.

    Raises:
        TokenizerError: It is no regular file, too large, or a git-lfs pointer.
        OSError: It cannot be read.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise TokenizerError(f"{path} is not a regular file")
    data = b""
    if found.st_size <= limit:
        with open(path, "rb") as file:
            data = file.read(limit + 1)  # which may have grown
    if max(found.st_size, len(data)) > limit:
        raise TokenizerError(
            f"{path} has more than {limit:,} bytes, too many for a file of a tokenizer"
        )
    if data.startswith(LFS_POINTER):
        raise TokenizerError(
            f"{path} is a git-lfs pointer, not the file itself; run `git lfs pull` in its "
            "repository, or download the file"
        )
    return data


def unpack(data: bytes, *, limit: int = MAX_MERGES_TEXT) -> bytes:
    """The contents of gzipped data, of all its members; other data as they are.

    Raises:
        TokenizerError: They are larger than the limit.
        EOFError, zlib.error: The data are damaged.
    """
    unpacked = bytearray()
    while data[:2] == GZIP:
        member = zlib.decompressobj(wbits=31)
        unpacked += member.decompress(data, limit + 1 - len(unpacked))
        if len(unpacked) > limit:
            raise TokenizerError(f"it unpacks to more than {limit:,} bytes, too many for merges")
        if not member.eof:
            raise EOFError("the compressed data end too early")
        data = member.unused_data
        if not data:
            return bytes(unpacked)
    return data if not unpacked else bytes(unpacked)

"""Where the members of a tar lie, from its headers alone.

The standard library's `tarfile` builds an object per member and reads through a stream. An
index over millions of members needs only names, offsets and sizes, and must say exactly how much
of a damaged file can be used, so the 512-byte headers are read here: ustar, GNU long names and
pax, octal and base-256 sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BLOCK = 512
REGULAR, CONTIGUOUS = b"0", b"7"
LONG_NAME, LONG_LINK = b"L", b"K"
LONGEST_NAME = 2**20  # bytes of a long name, or of all pax records of a member
PAX, PAX_GLOBAL = b"x", b"g"


_PAX_LENGTH = re.compile(rb"([0-9]{1,20}) ")


class TarDamage(ValueError):
    """The tar is damaged from some offset on; `offset` is where its usable part ends."""

    def __init__(self, offset: int, detail: str) -> None:
        super().__init__(f"{detail} at byte {offset}")
        self.offset = offset
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file in a tar.

    Attributes:
        name: Path as stored.
        start: Offset of its first header.
        offset: Offset of its content.
        size: Length of its content.
    """

    name: str
    start: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Offset of what follows, after padding to a block."""
        return self.offset + -(-self.size // BLOCK) * BLOCK


class Bytes(Protocol):
    """What is read by slices; those behind the end are empty, so a length may be too large."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


def iter_members(buffer: Bytes, *, whole: bool = True) -> Iterator[Member]:
    """Regular files of a tar in order; contents are not touched.

    Args:
        buffer: The tar, or a stretch of one that begins at a member's first header.
        whole: Whether a missing end-of-archive mark is damage.

    Raises:
        TarDamage: After the last complete member, if the rest cannot be used.
    """
    position, length = 0, len(buffer)
    start = 0
    long_name: str | None = None
    pax: dict[str, str] = {}
    while position < length:
        header = buffer[position : position + BLOCK]
        if not header:
            break
        if len(header) < BLOCK:
            raise TarDamage(start, "cut in the middle of a header")
        if header == bytes(BLOCK):
            return
        size = _parse_digits(pax["size"]) if "size" in pax else _parse_number(header[124:136])
        if size is None or not _checksum_holds(header):
            raise TarDamage(start, "not a tar header")
        kind, offset = header[156:157], position + BLOCK
        position = offset + -(-size // BLOCK) * BLOCK
        if offset + size > length:
            name = long_name or pax.get("path") or _parse_name(header)
            raise TarDamage(start, f"cut in the middle of {name[:200]!r}")
        if kind in (LONG_NAME, PAX) and size > LONGEST_NAME:
            raise TarDamage(start, f"a name of {size:,} bytes")
        if kind == LONG_NAME:
            long_name = _decode(buffer[offset : offset + size].rstrip(b"\0"))
        elif kind == PAX:
            pax = _parse_pax(buffer[offset : offset + size])
        elif kind not in (LONG_LINK, PAX_GLOBAL):
            if kind in (REGULAR, CONTIGUOUS, b"\0"):
                name = pax.get("path") or long_name or _parse_name(header)
                yield Member(name, start, offset, size)
            long_name, pax, start = None, {}, position
    if whole:
        raise TarDamage(min(start, length), "no end-of-archive mark, so members may be missing")


def tar_ends_at(path: Path, end: int, size: int) -> bool:
    """Whether a tar has its end-of-archive mark at an offset."""
    with path.open("rb") as file:
        file.seek(end)
        return file.read(BLOCK) == bytes(BLOCK)


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", errors="surrogateescape")


def _parse_name(header: bytes) -> str:
    name = _decode(header[:100].split(b"\0", 1)[0])
    is_posix = header[257:263] == b"ustar\0"
    prefix = _decode(header[345:500].split(b"\0", 1)[0]) if is_posix else ""
    return f"{prefix}/{name}" if prefix else name


def _parse_number(field: bytes) -> int | None:
    if field[0] == 0x80:  # GNU base-256, positive
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip() or b"0"
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else None


def _parse_digits(text: str) -> int | None:
    """A size in a pax record; one of more digits than any file has is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _checksum_holds(header: bytes) -> bool:
    stored = _parse_number(header[148:156])
    return stored == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _parse_pax(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    position = 0
    while match := _PAX_LENGTH.match(data, position):
        length = int(match[1])
        if length <= len(match[0]):
            break
        record = data[match.end() : position + length]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        records[_decode(key)] = _decode(value)
        position += length
    return records

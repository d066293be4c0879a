"""Features of a `tf.train.Example`, from the protocol buffer wire format.

Message layout (field numbers): Example 1 = Features; Features 1 = entries of a map, in each 1 = key
and 2 = Feature; Feature 1 = bytes, 2 = floats, 3 = integers, each a list in field 1, numbers packed
or one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

Values = list[bytes] | list[float] | list[int]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


MOST_FEATURES = 10_000
MOST_NUMBERS = 1_000_000  # of all features of an example


class WireError(ValueError):
    """Bytes that are no such message."""


def parse_example(message: bytes) -> dict[str, Values]:
    """Every feature of an example by name.

    Raises:
        WireError: The bytes are no example.
    """
    features: dict[str, Values] = {}
    count = 0
    for number, part in _iter_fields(message):
        if number == 1 and isinstance(part, bytes):
            for entry_number, entry in _iter_fields(part):
                if entry_number == 1 and isinstance(entry, bytes):
                    key, values = _parse_entry(entry)
                    features[key] = values
                    count += 1
                    if count > MOST_FEATURES:
                        raise WireError(f"more than {MOST_FEATURES:,} features")
    return features


def _parse_entry(entry: bytes) -> tuple[str, Values]:
    key, feature = "", b""
    for number, part in _iter_fields(entry):
        if number == 1 and isinstance(part, bytes):
            key = part.decode("utf-8", errors="replace")
        elif number == 2 and isinstance(part, bytes):
            feature = part
    for kind, content in _iter_fields(feature):
        if isinstance(content, bytes):
            return key, _parse_values(kind, content)
    return key, []


def _parse_values(kind: int, content: bytes) -> Values:
    values = (part for number, part in _iter_fields(content) if number == 1)
    parts = list(islice(values, MOST_NUMBERS + 1))
    if len(parts) > MOST_NUMBERS:
        raise WireError(f"a list of more than {MOST_NUMBERS:,} values")
    if kind == 1:
        return [part for part in parts if isinstance(part, bytes)]
    if kind == 2:
        raw = b"".join(p if isinstance(p, bytes) else struct.pack("<I", p) for p in parts)
        if len(raw) % 4:
            raise WireError("a list of floats is cut")
        if len(raw) > 4 * MOST_NUMBERS:
            raise WireError(f"a list of more than {MOST_NUMBERS:,} values")
        return [value for (value,) in struct.iter_unpack("<f", raw)]
    integers: list[int] = []
    for part in parts:
        integers += [part] if isinstance(part, int) else islice(_iter_varints(part), MOST_NUMBERS)
        if len(integers) >= MOST_NUMBERS:
            raise WireError(f"a list of more than {MOST_NUMBERS:,} values")
    return [value - (1 << 64) if value >= 1 << 63 else value for value in integers]


def _iter_fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field number and content of each field: bytes, or the integer of a number."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        if kind == LENGTH:
            size, position = _read_varint(message, position)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise WireError(f"unknown wire type {kind}")
        content = message[position : position + size]
        if len(content) < size:
            raise WireError("a field is cut")
        position += size
        yield number, content if kind == LENGTH else int.from_bytes(content, "little")


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
        shift += 7
    raise WireError("a number is cut")


def _iter_varints(packed: bytes) -> Iterator[int]:
    position = 0
    while position < len(packed):
        value, position = _read_varint(packed, position)
        yield value

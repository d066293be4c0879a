"""The text files beside an image in a shard: captions and labels in .txt, .cls and .json."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_eval.data.faults import BadSample

CAPTION_KEYS = ("captions", "caption", "text")
_LINE_END = re.compile(r"\r\n|\r|\n")  # splitlines() knows more, which captions may hold


def read_captions_and_label(
    parts: Mapping[str, bytes], key: str, caption_key: str = ""
) -> tuple[tuple[str, ...], int | None]:
    """Captions and label of a sample from its text, class and JSON files.

    Args:
        parts: Contents by extension.
        key: Names the sample in an error.
        caption_key: Extensions or JSON keys that may hold captions, separated by semicolons.

    Raises:
        BadSample: Text that is not UTF-8, JSON that is none, or a label that is no integer.
    """
    record = _parse_json(parts["json"], key) if "json" in parts else {}
    captions: list[str] = []
    for name in caption_key.split(";") if caption_key else ("txt", *CAPTION_KEYS):
        if captions:
            break
        if name in record:
            captions = _collect_texts(record[name])
        elif name in parts and (caption_key or name == "txt"):
            captions = _collect_texts(_LINE_END.split(_decode(parts[name], key)))
    label = record.get("label", record.get("cls"))
    if not isinstance(label, int) or isinstance(label, bool):
        label = None
    if "cls" in parts:
        text = _decode(parts["cls"], key)
        try:
            label = int(text)
        except ValueError as error:
            raise BadSample("bad-label", f".cls holds {text[:40]!r}", key) from error
    return tuple(captions), label


def read_targets(parts: Mapping[str, bytes], key: str) -> tuple[int, ...] | None:
    """The classes of an image that may have several: where the array in `.npy` is not 0.

    Args:
        parts: Contents by extension.
        key: Names the sample in an error.

    Raises:
        BadSample: The file holds no such array, (C,).
    """
    if "npy" not in parts:
        return None
    try:
        marks = read_array(parts["npy"])
    except ValueError as error:
        raise BadSample("bad-label", f".npy cannot be read ({error})", key) from error
    if marks.ndim != 1 or marks.dtype.kind not in "biuf":
        raise BadSample("bad-label", f".npy holds {marks.dtype} {marks.shape}, not (C,)", key)
    return tuple(np.flatnonzero(marks).tolist())


def read_array(content: bytes) -> NDArray[Any]:
    """The array in a `.npy` file; nothing is allocated that its bytes do not fill.

    Raises:
        ValueError: It is no such file, is cut, or holds objects.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = (np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0)
        shape, is_fortran, kind = read[version[0] - 1](stream)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
    count = math.prod(shape)
    if kind.hasobject or count * kind.itemsize != len(content) - stream.tell():
        raise ValueError(f"{kind} {shape} in {len(content):,} bytes")
    found = np.frombuffer(content, kind, count, stream.tell())
    return found.reshape(shape, order="F" if is_fortran else "C")


def _decode(content: bytes, key: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("bad-utf8", f"{error.reason} at byte {error.start}", key) from error


def _parse_json(content: bytes, key: str) -> dict[str, Any]:
    try:
        record = json.loads(_decode(content, key))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample("bad-json", str(error)[:200], key) from error
    return record if isinstance(record, dict) else {}


def _collect_texts(value: object) -> list[str]:
    """The texts in a value that is one, or a list with some; blank ones left out."""
    found: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    return [item.strip() for item in found if isinstance(item, str) and item.strip()]

"""The text files beside an image in a shard: captions and labels in .txt, .cls and .json."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.labels import label_of

CAPTION_KEYS = ("captions", "caption", "text")
LABEL_KEYS = ("cls", "label", "labels")
_LINE_END = re.compile(r"\r\n|\r|\n")  # splitlines() knows more, which captions may hold


@dataclass(frozen=True, kw_only=True)
class LabelKeys:
    """Where labels lie, and what the labels mean.

    Attributes:
        label_key: Extension or JSON key that holds the label, or several; the usual ones if empty.
        classnames: Class names in label order.
        first_label: Number of the first class; 0 if None.
    """

    label_key: str = ""
    classnames: tuple[str, ...] | None = None
    first_label: int | None = None


def read_captions(
    parts: Mapping[str, bytes], record: Mapping[str, Any], key: str, caption_key: str = ""
) -> tuple[str, ...]:
    """Captions of a sample from its text or JSON file.

    Args:
        parts: Contents by extension.
        record: Content of the JSON file.
        key: Names the sample in an error.
        caption_key: Extensions or JSON keys that may hold captions, separated by semicolons.

    Raises:
        BadSample: Text that is not UTF-8.
    """
    captions: list[str] = []
    for name in caption_key.split(";") if caption_key else ("txt", *CAPTION_KEYS):
        if captions:
            break
        if name in record:
            captions = _collect_texts(record[name])
        elif name in parts and (caption_key or name == "txt"):
            captions = _collect_texts(_LINE_END.split(_decode(parts[name], key)))
    return tuple(captions)


def read_labels(
    parts: Mapping[str, bytes], record: Mapping[str, Any], key: str, keys: LabelKeys
) -> tuple[int | None, tuple[int, ...] | None]:
    """The class of a sample, and all of its classes where it may have several.

    The class is a number or a name in `.cls` or JSON; several are a list there, or a mark of 0 or 1
    for each class in `.npy`.

    Args:
        parts: Contents by extension.
        record: Content of the JSON file.
        key: Names the sample in an error.
        keys: Where they lie, and what they mean.

    Raises:
        BadSample: A file that cannot be read, or holds no label.
        DataError: A label is in no class, or marks are neither 0 nor 1.
    """
    first = keys.first_label or 0
    if "npy" in parts and keys.label_key in ("", "npy"):
        marks = _read_marks(parts["npy"], key)
        return None, read_marks(marks, keys.classnames, where=key)
    for name in (keys.label_key,) if keys.label_key else LABEL_KEYS:
        if name in parts and name != "json":
            text = _decode(parts[name], key)
            found = label_of(text, keys.classnames, first=first, where=key)
            if found is None:
                raise BadSample("bad-label", f".{name} holds {text[:40]!r}", key)
        elif name in record:
            found = label_of(record[name], keys.classnames, first=first, where=key)
        else:
            continue
        if found is not None:
            return (None, found) if isinstance(found, tuple) else (found, None)
    return None, None


def read_marks(marks: NDArray[Any], names: Sequence[str] | None, *, where: str) -> tuple[int, ...]:
    """The classes of an image that may have several, from a mark for each class (C,).

    Raises:
        DataError: A mark is neither 0 nor 1, or there is not one for each class. It is no fault of
            one sample: the marks of all others mean something else too.
    """
    others = np.setdiff1d(marks, (0, 1))
    if len(others):
        shown = ", ".join(f"{value:g}" for value in others[:4].tolist())
        raise DataError(
            f"{where}: expected a mark of 0 or 1 for each class, got {shown}; write class numbers "
            "as a list into .json (`labels`), and decide what other marks mean"
        )
    if names is not None and len(marks) != len(names):
        raise DataError(
            f"{where}: expected a mark for each of the {len(names)} classes, got {len(marks)}"
        )
    return tuple(np.flatnonzero(marks).tolist())


def _read_marks(content: bytes, key: str) -> NDArray[Any]:
    try:
        marks = read_array(content)
    except ValueError as error:
        raise BadSample("bad-label", f".npy cannot be read ({error})", key) from error
    if marks.ndim != 1 or marks.dtype.kind not in "biuf":
        raise BadSample("bad-label", f".npy holds {marks.dtype} {marks.shape}, not (C,)", key)
    return marks


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
    except Exception as error:  # numpy evaluates the header, and raises nearly everything
        raise ValueError(" ".join(str(error).split())[:200]) from error
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"shape {shape!r:.60}")
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


def parse_json(content: bytes, key: str) -> dict[str, Any]:
    """The object in a JSON file; an empty one for another value.

    Raises:
        BadSample: It is not JSON.
    """
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

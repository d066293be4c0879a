"""Unpickling of plain values only: dicts, lists, strings, bytes, numbers.

A pickle is a program that may call whatever it names. Here it can name only the one function by
which protocols 0 to 2 write bytes, and that function is replaced by a harmless one.
"""

from __future__ import annotations

import io
import pickle
from typing import Any


class UnsafePickle(ValueError):
    """A pickle that names something beyond plain values, or is no pickle at all."""


def load_plain(data: bytes) -> Any:
    """The plain value in a pickle.

    Raises:
        UnsafePickle: It holds anything else, or is damaged.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except UnsafePickle:
        raise
    except Exception as error:  # a damaged pickle raises nearly everything
        raise UnsafePickle(f"damaged ({error})") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise UnsafePickle(f"it asks for {module}.{name}, which plain values never do")

    def persistent_load(self, reference: object) -> Any:
        raise UnsafePickle("it refers to something outside itself")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickle("it encodes something that is no text")
    return text.encode("latin1")

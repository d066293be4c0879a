"""Unpickling of plain values only: dicts, lists, strings, bytes, numbers.

A pickle is a program that may call whatever it names. Here it can name only the one function by
which protocols 0 to 2 write bytes, and that function is replaced by a harmless one. The
instructions are looked through first, because some ask for memory that nothing in the file fills.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

MOST_INSTRUCTIONS = 200_000
MOST_INTEGERS = 10_000
"""As keys of a dict, integers can be chosen so that each collides with all others."""


class UnsafePickle(ValueError):
    """A pickle that names something beyond plain values, or is no pickle at all."""


def load_plain(data: bytes) -> Any:
    """The plain value in a pickle.

    Raises:
        UnsafePickle: It holds anything else, is damaged, or would need more than its size.
    """
    try:
        _check_instructions(data)
        return _PlainUnpickler(io.BytesIO(data)).load()
    except UnsafePickle:
        raise
    except Exception as error:  # a damaged pickle raises nearly everything
        raise UnsafePickle(f"damaged ({' '.join(str(error).split())[:200]})") from error


def _check_instructions(data: bytes) -> None:
    """Check that a pickle's instructions are few, and that its lengths and places are true."""
    integers = 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        if count > MOST_INSTRUCTIONS:
            raise UnsafePickle(f"more than {MOST_INSTRUCTIONS:,} instructions")
        name = instruction.name
        if name.endswith("PUT") and not 0 <= int(argument or 0) <= MOST_INSTRUCTIONS:
            raise UnsafePickle(f"it remembers a value at place {argument}")
        integers += "INT" in name or name.startswith("LONG")
        if integers > MOST_INTEGERS:
            raise UnsafePickle(f"more than {MOST_INTEGERS:,} integers")


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self._encoded, self._most = 0, 2 * len(stream.getbuffer())

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        raise UnsafePickle(f"it asks for {module}.{name}, which plain values never do"[:200])

    def persistent_load(self, reference: object) -> Any:
        raise UnsafePickle("it refers to something outside itself")

    def _encode(self, text: object, encoding: object = "latin1") -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise UnsafePickle("it encodes something that is no text")
        self._encoded += len(text)
        if self._encoded > self._most:
            raise UnsafePickle("it encodes a text again and again")
        return text.encode("latin1")

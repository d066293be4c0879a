"""Alphabets: the symbols of a text and their ids. N symbols of a text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BYTES = ("utf-8", "surrogateescape")  # holds half a character
TEXT8 = " abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class Alphabet:
    """Symbols of a text and their ids.

    Attributes:
        characters: One character per id, or None for the 256 bytes.
    """

    characters: str | None = TEXT8

    def __post_init__(self) -> None:
        if self.characters is not None and len(set(self.characters)) != len(self.characters):
            raise ValueError(f"an alphabet's characters must differ, got {self.characters!r}")

    def __len__(self) -> int:
        return 256 if self.characters is None else len(self.characters)

    @property
    def has_space(self) -> bool:
        """Whether one of its symbols is the space."""
        return self.characters is None or " " in self.characters

    @property
    def space(self) -> int:
        """Id of the space, 0 if the alphabet has none."""
        if self.characters is None:
            return 32
        return max(0, self.characters.find(" "))

    def check(self, text: str) -> None:
        """Raise ValueError if the text has other characters."""
        unknown = sorted(set(text).difference(self.characters or text))
        if unknown and self.characters is not None:
            shown = self.characters[:60] + ("…" if len(self.characters) > 60 else "")
            raise ValueError(
                f"the text has characters outside the alphabet, {unknown[:10]}; use only those in "
                f"it, {shown!r}"
            )

    def encode(self, text: str) -> Tensor:
        """(N,) int64 ids; UTF-8 bytes for the byte alphabet."""
        if self.characters is None:
            return _buffer(text.encode(*BYTES), torch.uint8).long()
        codes = _buffer(text.encode("utf-32-le"), torch.int32)
        known, ids = torch.tensor([ord(character) for character in self.characters]).sort()
        place = torch.searchsorted(known, codes.long()).clamp(max=len(known) - 1)
        if not torch.equal(known[place], codes.long()):
            self.check(text)
        return ids[place]

    def decode(self, ids: Tensor) -> str:
        """The text of (N,) ids; bytes that are no UTF-8 become replacement characters."""
        if self.characters is None:
            return bytes(ids.tolist()).decode(errors="replace")
        return "".join(self.characters[index] for index in ids.tolist())


def _buffer(raw: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def make_alphabet(name: str, *texts: str) -> Alphabet:
    """`text8` (27 symbols), `bytes` (256), or `characters`: those that occur in the texts.

    Raises:
        ValueError: No such alphabet, or the texts have characters outside it.
    """
    if name == "bytes":
        return Alphabet(characters=None)
    if name not in ("text8", "characters"):
        raise ValueError(f"alphabet must be 'text8', 'bytes' or 'characters', got {name!r}")
    found = set().union(*texts)
    if name == "characters":
        return Alphabet(characters="".join(sorted(found)))
    unknown = sorted(found.difference(TEXT8))
    if unknown:
        raise ValueError(
            f"the text has characters outside the alphabet, {unknown[:10]}; use the alphabet "
            "'characters', which is read from the text, or 'bytes'"
        )
    return Alphabet()

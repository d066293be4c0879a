"""Texts as symbols: reading, alphabets, splits and the order of training chunks.

N symbols of a text, B batch, L context.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

TEXT8 = " abcdefghijklmnopqrstuvwxyz"
_BYTES = ("utf-8", "surrogateescape")  # what holds a character cut in two


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

    def encode(self, text: str) -> Tensor:
        """(N,) int64 ids; UTF-8 bytes for the byte alphabet."""
        if self.characters is None:
            return _buffer(text.encode(*_BYTES), torch.uint8).long()
        codes = _buffer(text.encode("utf-32-le"), torch.int32)
        known, ids = torch.tensor([ord(character) for character in self.characters]).sort()
        place = torch.searchsorted(known, codes.long()).clamp(max=len(known) - 1)
        if not torch.equal(known[place], codes.long()):
            unknown = sorted(set(text) - set(self.characters))
            shown = self.characters[:60] + ("…" if len(self.characters) > 60 else "")
            raise ValueError(
                f"the text has characters outside the alphabet, {unknown[:10]}; use only those in "
                f"it, {shown!r}"
            )
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


def digest(text: str) -> str:
    """SHA-256 of the text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode(*_BYTES)).hexdigest()


def read_text(path: Path) -> str:
    """The UTF-8 text of a plain, `.gz` or one-member `.zip` file, without a last line break."""
    try:
        raw = _read(path)
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is no whole {path.suffix} file: {error}") from error
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from error
    return text[:-1] if text.endswith("\n") else text


def _read(path: Path) -> bytes:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            return file.read()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise ValueError(f"expected one member in {path}, got {names}; unpack it")
            return archive.read(names[0])
    return path.read_bytes()


def split_text(text: str, alphabet: str = "text8") -> tuple[str, str, str]:
    """Train, validation and test: the first 90 %, the next 5 %, the rest, as for text8 and enwik8.

    They are shares of what the alphabet counts: `bytes`, as is usual for enwik8, or characters.
    """
    if alphabet == "bytes":
        raw = text.encode(*_BYTES)
        first, second = len(raw) * 90 // 100, len(raw) * 95 // 100
        cuts = (raw[:first], raw[first:second], raw[second:])
        train, valid, test = (part.decode(*_BYTES) for part in cuts)
        return train, valid, test
    first, second = len(text) * 90 // 100, len(text) * 95 // 100
    return text[:first], text[first:second], text[second:]


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

"""The 256 printable symbols that stand for bytes in CLIP's vocabulary files.

A vocabulary file must spell any byte as one visible character. The 188 bytes that Latin-1 shows as
visible characters keep that character; the other 68 take the characters from U+0100 on, in order.
A symbol that closes a word carries the suffix `</w>`.
"""

from __future__ import annotations

END_OF_WORD = "</w>"

VISIBLE_BYTES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
HIDDEN_BYTES = tuple(sorted(set(range(256)) - set(VISIBLE_BYTES)))

BYTE_ORDER = VISIBLE_BYTES + HIDDEN_BYTES
"""The byte of each of the first 256 ids of a CLIP vocabulary."""

BYTE_SYMBOLS = tuple(
    [chr(byte) for byte in VISIBLE_BYTES] + [chr(0x100 + rank) for rank in range(len(HIDDEN_BYTES))]
)
"""The character that spells each of the first 256 ids."""

BASE_SYMBOLS = BYTE_SYMBOLS + tuple(symbol + END_OF_WORD for symbol in BYTE_SYMBOLS)
"""The 512 symbols every vocabulary starts with: each byte inside a word and at its end."""

BYTE_OF_SYMBOL = dict(zip(BYTE_SYMBOLS, BYTE_ORDER, strict=True))
SYMBOL_OF_BYTE = dict(zip(BYTE_ORDER, BYTE_SYMBOLS, strict=True))


def decode_symbol(symbol: str) -> bytes:
    """The bytes that a vocabulary symbol spells, with `</w>` left in as four ASCII bytes."""
    return bytes(map(BYTE_OF_SYMBOL.__getitem__, symbol))


def spell_bytes(data: bytes) -> str:
    """The vocabulary spelling of raw bytes, without an end-of-word suffix."""
    return "".join(map(SYMBOL_OF_BYTE.__getitem__, data))

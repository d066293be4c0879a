"""How many texts are longer than what a tokenizer keeps of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

from clip_eval.models.protocols import TextTokenizer

TEXTS_AT_ONCE = 8192
SHORTEST_CONTEXT = 8
MORE = " and some more words"


class CutTexts(NamedTuple):
    """How many texts a tokenizer cuts.

    Attributes:
        num_cut: Their number.
        context_length: Number of tokens of a row.
        is_exact: Whether the tokenizer tells lengths; if not, texts that just fill the row count.
    """

    num_cut: int
    context_length: int
    is_exact: bool


def count_cut(tokenizer: TextTokenizer, texts: Iterable[str]) -> CutTexts:
    """Count the texts of which a tokenizer drops tokens.

    Our tokenizers tell the length of a text. Of another one's rows those count that stay the same
    when words are added to the text: the text is cut, or just fills the row.
    """
    known: Any = tokenizer
    if hasattr(known, "lengths") and hasattr(known, "context_length"):
        length = int(known.context_length)
        lengths = (known.lengths(part) for part in _parts(texts))
        return CutTexts(sum(int((some > length).sum()) for some in lengths), length, True)
    parts = _parts(texts)
    first: list[str] = next(parts, [])
    row = tokenizer([min(first, key=len)]) if first else None
    if row is None or row.shape[1] < SHORTEST_CONTEXT or not bool(row[0, -2] == row[0, -1]):
        return CutTexts(0, 0, False)  # no padding to see: not a row of tokens in order
    # A token is a byte or more, so that shorter texts cannot fill the row.
    least = row.shape[1] - 2
    long = (text for part in chain([first], parts) for text in part if _size(text) >= least)
    return CutTexts(sum(_count_full(tokenizer, part) for part in _parts(long)), least + 2, False)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _count_full(tokenizer: TextTokenizer, texts: list[str]) -> int:
    """Count the texts whose rows stay the same when words are added."""
    rows, longer = tokenizer(texts), tokenizer([f"{text}{MORE}" for text in texts])
    return int((rows == longer).all(dim=1).sum())


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while part := list(islice(rest, TEXTS_AT_ONCE)):
        yield part

"""Symbols, merges and special tokens, the learned part of a tokenizer.

Layout of ids, CLIP's own: 256 bytes, the same 256 at the end of a word, one id per merge, start of
text, end of text, extra special tokens. A vocabulary from a file may have another order.
"""

from __future__ import annotations

import functools
import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from clip_tokenizer.alphabet import BASE_SYMBOLS
from clip_tokenizer.errors import TokenizerError

NUM_OPENAI_MERGES = 48_894
OPENAI_SPECIAL_TOKENS = ("<start_of_text>", "<end_of_text>")
OPENAI_TABLE_SHA256 = "3b99edd1a64e51e134f972f7f6d89cc0da7ba11966230ec46bdaeae886a4d9b4"
MAX_IDS = 2**24
"""Bound on ids, which are rows of tables; the largest published vocabularies have a million."""
MERGES_VARIABLE = "CLIP_TOKENIZER_MERGES"
"""Environment variable that names a merges file in place of the packed table."""


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A token that transformers added to a tokenizer: found in every text, before its words.

    Attributes:
        content: Its spelling, without white space.
        single_word: Whether it is found only where no letter or digit stands beside it.
        special: Whether decoded text leaves it out.
    """

    content: str
    single_word: bool = False
    special: bool = False


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The ids of a byte-level BPE tokenizer with end-of-word symbols.

    Attributes:
        ids: Id of every symbol, special tokens included; no two are the same.
        merges: The pair of ids of each rank, lowest rank first.
        sot: The start-of-text token.
        eot: The end-of-text token.
        extra: Further special tokens.
        added: Tokens that transformers added.
    """

    ids: Mapping[str, int]
    merges: Sequence[tuple[int, int]]
    sot: str = OPENAI_SPECIAL_TOKENS[0]
    eot: str = OPENAI_SPECIAL_TOKENS[1]
    extra: tuple[str, ...] = ()
    added: tuple[AddedToken, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "merges", tuple(self.merges))
        wrong = [symbol for symbol, at in self.ids.items() if type(at) is not int or at < 0]
        if wrong:
            raise TokenizerError(
                f"the id of {wrong[0]!r} must be an int >= 0, got {self.ids[wrong[0]]!r}"
            )
        large = [symbol for symbol, at in self.ids.items() if at >= MAX_IDS]
        if large:
            raise TokenizerError(
                f"the id of {large[0]!r} must be below {MAX_IDS:,}, got {self.ids[large[0]]:,}"
            )
        symbol_of = {index: symbol for symbol, index in self.ids.items()}
        twice = [symbol for symbol, index in self.ids.items() if symbol_of[index] != symbol]
        if twice:
            raise TokenizerError(
                f"{twice[0]!r} and {symbol_of[self.ids[twice[0]]]!r} have the same id, "
                f"{self.ids[twice[0]]}; ids must differ"
            )
        missing = [symbol for symbol in BASE_SYMBOLS if symbol not in self.ids]
        if missing:
            raise TokenizerError(
                f"a vocabulary must hold all {len(BASE_SYMBOLS)} byte symbols, {len(missing)} are "
                f"missing ({' '.join(missing[:5])} …); without them some texts have no ids"
            )
        for token in (*self.special_tokens, *(added.content for added in self.added)):
            if not token or token.split() != [token]:
                raise TokenizerError(
                    f"a special token must be non-empty and without white space, got {token!r}; "
                    "texts are split there before tokens are looked for"
                )
            if token not in self.ids:
                raise TokenizerError(f"special token {token!r} is not in the vocabulary")
        if len(set(self.special_tokens)) < len(self.special_tokens):
            raise TokenizerError(
                f"special tokens must differ, got {', '.join(self.special_tokens)}"
            )

    @classmethod
    def from_merges(
        cls,
        merges: Iterable[tuple[str, str]],
        *,
        sot: str = OPENAI_SPECIAL_TOKENS[0],
        eot: str = OPENAI_SPECIAL_TOKENS[1],
        extra: Sequence[str] = (),
    ) -> Vocabulary:
        """The vocabulary in CLIP's layout whose merges are the given pairs of symbols.

        Args:
            merges: Pairs of symbols, lowest rank first.
            sot: The start-of-text token.
            eot: The end-of-text token.
            extra: Further special tokens; they take the ids after `eot`.

        Raises:
            TokenizerError: If a pair names a symbol that no earlier merge makes.
        """
        ids = {symbol: index for index, symbol in enumerate(BASE_SYMBOLS)}
        pairs: list[tuple[int, int]] = []
        for rank, (left, right) in enumerate(merges):
            if left not in ids or right not in ids:
                unknown = left if left not in ids else right
                raise TokenizerError(
                    f"merge {rank} ({left} {right}): no earlier merge makes {unknown}"
                )
            pairs.append((ids[left], ids[right]))
            ids.setdefault(left + right, len(ids))
        return cls._with_special_tokens(ids, pairs, (sot, eot, *extra))

    @classmethod
    def _with_special_tokens(
        cls, ids: dict[str, int], pairs: Sequence[tuple[int, int]], tokens: tuple[str, ...]
    ) -> Vocabulary:
        """The vocabulary with `tokens` (start, end, extra) after the last id."""
        for token in tokens:
            if token in ids:
                raise TokenizerError(
                    f"special token {token!r} is already a symbol of the vocabulary or given "
                    "twice; choose another spelling"
                )
            ids[token] = len(ids)
        return cls(ids=ids, merges=pairs, sot=tokens[0], eot=tokens[1], extra=tokens[2:])

    @classmethod
    def openai(cls, *, extra: Sequence[str] = ()) -> Vocabulary:
        """The vocabulary of OpenAI's CLIP, from the table inside this package.

        Raises:
            TokenizerError: If the installed table is damaged.
        """
        ids = {symbol: index for index, symbol in enumerate(BASE_SYMBOLS)}
        symbols = list(BASE_SYMBOLS)
        pairs = _read_packed_merges()
        for left, right in pairs:
            symbol = symbols[left] + symbols[right]
            ids[symbol] = len(symbols)
            symbols.append(symbol)
        return cls._with_special_tokens(ids, pairs, (*OPENAI_SPECIAL_TOKENS, *extra))

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Start, end and extra special tokens."""
        return (self.sot, self.eot, *self.extra)

    @functools.cached_property
    def size(self) -> int:
        """One more than the largest id: the number of rows of an embedding table."""
        return max(self.ids.values()) + 1

    @functools.cached_property
    def symbols(self) -> tuple[str, ...]:
        """The symbol of every id, an empty string for an unused one."""
        symbols = [""] * self.size
        for symbol, index in self.ids.items():
            symbols[index] = symbol
        return tuple(symbols)

    def merge_symbols(self) -> list[tuple[str, str]]:
        """The merges as pairs of symbols, lowest rank first."""
        symbols = self.symbols
        return [(symbols[left], symbols[right]) for left, right in self.merges]

    def products(self) -> list[int]:
        """The id of the symbol that each merge makes.

        Raises:
            TokenizerError: If a merge makes a symbol that has no id.
        """
        try:
            return [self.ids[left + right] for left, right in self.merge_symbols()]
        except KeyError as error:
            raise TokenizerError(
                f"a merge makes {error.args[0]!r}, which the vocabulary does not list; vocabulary "
                "and merges come from different tokenizers"
            ) from error


def resolve_merges_path(path: str | os.PathLike[str] | None) -> Path | None:
    """The merges file to read: `path`, that of the environment variable, or None for the table."""
    chosen = path if path is not None else os.environ.get(MERGES_VARIABLE) or None
    return None if chosen is None else Path(chosen)


@functools.cache
def _read_packed_merges() -> tuple[tuple[int, int], ...]:
    """The id pairs of OpenAI's merges; see `scripts/pack_merges.py` for the layout."""
    packed = (files("clip_tokenizer") / "data" / "openai_merges.bin").read_bytes()
    try:
        table = zlib.decompress(packed)
    except zlib.error:
        table = b""
    digest = hashlib.sha256(table).hexdigest()
    if digest != OPENAI_TABLE_SHA256:
        raise TokenizerError(
            f"the packed merges have SHA-256 {digest}, expected {OPENAI_TABLE_SHA256}; reinstall "
            f"clip-tokenizer, or name a merges file in {MERGES_VARIABLE}"
        )
    columns = np.frombuffer(table, dtype="<u2").reshape(2, NUM_OPENAI_MERGES)
    return tuple(zip(columns[0].tolist(), columns[1].tolist(), strict=True))

"""From texts to rows of ids: clean, split into chunks, look each up, join. N texts, L ids."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_tokenizer.alphabet import END_OF_WORD, SYMBOL_OF_BYTE
from clip_tokenizer.bpe import MergeTable
from clip_tokenizer.chunk_cache import ChunkCache
from clip_tokenizer.cleaning import SEPARATOR, CleanMode, clean_batch, clean_text
from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.token_rows import TokenRows
from clip_tokenizer.vocabulary import AddedToken, Vocabulary
from clip_tokenizer.words import compile_added_pattern, compile_pattern

BLOCK = 4096
"""Number of texts that are joined and split at a time."""
LONGEST_WORD = 2**20
"""Bytes of a word, which takes a second and 200 MB to be merged at that length."""


@dataclass(frozen=True, kw_only=True)
class Offsets:
    """The span of text of each id.

    Attributes:
        text: The cleaned text, to whose characters the spans refer.
        ids: The ids of the text, without start and end.
        spans: (start, end) of the characters of each id. Ids that share the bytes of one character
            share that character.
    """

    text: str
    ids: list[int]
    spans: list[tuple[int, int]]


class TextEncoder:
    """The look-up tables of a vocabulary and the cache of chunks.

    Args:
        vocabulary: Symbols, merges and special tokens.
        clean: Cleaning mode.
        allow_special: Whether special tokens are found in texts.
        cache_size: Number of chunks in each of the two generations of the cache.

    Raises:
        TokenizerError: If two special tokens are the same after cleaning.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, clean: CleanMode, allow_special: bool, cache_size: int
    ) -> None:
        self._vocabulary = vocabulary
        self._clean = clean
        ids = vocabulary.ids
        self._inside = [ids[SYMBOL_OF_BYTE[byte]] for byte in range(256)]
        self._closing = [ids[SYMBOL_OF_BYTE[byte] + END_OF_WORD] for byte in range(256)]
        self._merges = MergeTable(vocabulary.merges, vocabulary.products(), vocabulary.size)
        # ids travel as machine integers; the largest one marks the end of a text
        self._typecode = "I" if vocabulary.size > 0xFFFF else "H"
        self._dtype: np.dtype[np.unsignedinteger] = np.dtype(self._typecode)
        self._row_end = int(np.iinfo(self._dtype).max)
        special = vocabulary.special_tokens if allow_special else ()
        self._pattern = compile_pattern(special)
        self._special_ids = {
            token if clean == "whitespace" else token.lower(): ids[token] for token in special
        }
        if len(self._special_ids) < len(special):
            raise TokenizerError(
                f"special tokens {', '.join(special)} are not distinct in lower case; use "
                "clean='whitespace'"
            )
        added = _spell_added(vocabulary.added, clean)
        self._added = compile_added_pattern(added)
        self._added_ids = {spelled: ids[token.content] for spelled, token in added.items()}
        self._cache = ChunkCache(self._encode_chunk, cache_size)

    def encode(self, texts: Sequence[str]) -> TokenRows:
        """The ids of N texts: one split of each block, one look-up of each chunk, one join."""
        if 0 < len(texts) <= BLOCK:
            return self._encode_block(texts)
        blocks = [self._encode_block(texts[at : at + BLOCK]) for at in range(0, len(texts), BLOCK)]
        return TokenRows(
            ids=np.concatenate([np.empty(0, self._dtype), *(block.ids for block in blocks)]),
            lengths=np.concatenate([np.empty(0, np.int64), *(block.lengths for block in blocks)]),
        )

    def _encode_block(self, texts: Sequence[str]) -> TokenRows:
        chunks = clean_batch(texts, self._clean).split()
        chunks.append(SEPARATOR)
        packed = b"".join(map(self._cache.__getitem__, chunks))
        flat: npt.NDArray[np.unsignedinteger] = np.frombuffer(packed, dtype=self._dtype)  # (L + N,)
        is_end = flat == self._row_end
        ends = np.flatnonzero(is_end)  # (N,) position after the last id of each text
        return TokenRows(ids=flat[~is_end], lengths=np.diff(ends, prepend=-1) - 1)

    def _encode_chunk(self, chunk: str) -> bytes:
        """The packed ids of a chunk that is not in the cache."""
        if chunk == SEPARATOR:
            return array(self._typecode, [self._row_end]).tobytes()
        if self._added is not None:
            found = [self._encode_part(*part) for part in self._split(chunk)]
            return array(self._typecode, itertools.chain(*found)).tobytes()
        words = self._pattern.findall(chunk)
        if words == [chunk]:
            return array(self._typecode, self._encode_word(chunk)).tobytes()
        return b"".join(map(self._cache.__getitem__, words))

    def _encode_part(self, _: int, word: str, is_added: bool) -> list[int]:
        """The ids of a part of a text."""
        return [self._added_ids[word]] if is_added else self._encode_word(word)

    def _encode_word(self, word: str) -> list[int]:
        """The ids of one word of the pattern."""
        special = self._special_ids.get(word)
        if special is not None:
            return [special]
        data = word.encode("utf-8")
        if len(data) > LONGEST_WORD:
            raise TokenizerError(
                f"a word of {len(data):,} bytes begins with {word[:20]!r}; a word may have "
                f"{LONGEST_WORD:,}, so separate its parts by blanks"
            )
        inside = self._inside
        return self._merges.merge([*(inside[byte] for byte in data[:-1]), self._closing[data[-1]]])

    def offsets(self, text: str) -> Offsets:
        """The ids of a text with the span of each in the cleaned text."""
        cleaned = clean_text(text, self._clean)
        found = [
            (index, (start + first, start + end))
            for start, word, is_added in self._split(cleaned)
            for index, first, end in self._locate(start, word, is_added)
        ]
        return Offsets(
            text=cleaned, ids=[index for index, _ in found], spans=[span for _, span in found]
        )

    def _split(self, text: str) -> Iterator[tuple[int, str, bool]]:
        """Give each word and added token of a cleaned text: its start, itself, whether added."""
        start = 0
        for match in [] if self._added is None else self._added.finditer(text):
            for word in self._pattern.finditer(text, start, match.start()):
                yield word.start(), word.group(), False
            yield match.start(), match.group(), True
            start = match.end()
        for word in self._pattern.finditer(text, start):
            yield word.start(), word.group(), False

    def _locate(self, start: int, word: str, is_added: bool) -> Iterator[tuple[int, int, int]]:
        """Give each id of a word with the start and end of its characters in the word."""
        if is_added or word in self._special_ids:
            yield self._encode_part(start, word, is_added)[0], 0, len(word)
            return
        # (bytes,) the character that each byte of the word belongs to
        owner = [at for at, letter in enumerate(word) for _ in letter.encode("utf-8")]
        done = 0
        for index in self._encode_word(word):
            size = len(self._vocabulary.symbols[index].removesuffix(END_OF_WORD))
            yield index, owner[done], owner[done + size - 1] + 1
            done += size


def _spell_added(tokens: Sequence[AddedToken], clean: CleanMode) -> dict[str, AddedToken]:
    """Added tokens by their spelling in cleaned text; of two spelled alike, the first is found.

    Raises:
        TokenizerError: Cleaning would take a token apart, so that no text had it.
    """
    added: dict[str, AddedToken] = {}
    for token in tokens:
        spelled = clean_text(token.content, clean)
        if spelled.lower() != token.content.lower():
            raise TokenizerError(
                f"the added token {token.content!r} becomes {spelled!r} with clean={clean!r}, so "
                "no text could hold it; choose another cleaning"
            )
        added.setdefault(spelled, token)
    return added

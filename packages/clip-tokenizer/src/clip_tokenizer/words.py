"""The pattern that splits a chunk of cleaned text into words, which are encoded one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import regex

from clip_tokenizer.vocabulary import AddedToken

WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""English contractions, runs of letters, single digits, runs of anything else but white space."""


def compile_pattern(special_tokens: Sequence[str] = ()) -> regex.Pattern[str]:
    """The word pattern, with special tokens as words, before all others.

    Special tokens are escaped, so that `<|a|>` and `(+)` match themselves.
    """
    return regex.compile(
        "|".join([*map(regex.escape, special_tokens), WORD_PATTERN]), regex.IGNORECASE
    )


def compile_added_pattern(tokens: Mapping[str, AddedToken]) -> regex.Pattern[str] | None:
    """The pattern of added tokens by their spelling in cleaned text; None without any.

    Where several begin, the longest is found, as in transformers.
    """
    longest_first = sorted(tokens, key=len, reverse=True)
    alternatives = [
        rf"(?<!\w){regex.escape(spelled)}(?!\w)"
        if tokens[spelled].single_word
        else regex.escape(spelled)
        for spelled in longest_first
    ]
    return regex.compile(f"({'|'.join(alternatives)})") if alternatives else None

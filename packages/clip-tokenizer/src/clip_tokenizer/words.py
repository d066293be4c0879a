"""The pattern that splits a chunk of cleaned text into words, which are encoded one by one."""

from __future__ import annotations

from collections.abc import Sequence

import regex

WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""English contractions, runs of letters, single digits, runs of anything else but white space."""


def compile_pattern(special_tokens: Sequence[str] = ()) -> regex.Pattern[str]:
    """The word pattern, with special tokens as words, before all others.

    Special tokens are escaped, so that `<|a|>` and `(+)` match themselves.
    """
    return regex.compile(
        "|".join([*map(regex.escape, special_tokens), WORD_PATTERN]), regex.IGNORECASE
    )

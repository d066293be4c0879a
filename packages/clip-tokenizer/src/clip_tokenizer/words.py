"""How a chunk of cleaned text is split into the words that are encoded one by one."""

from __future__ import annotations

from collections.abc import Sequence

import regex

WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""English contractions, runs of letters, single digits, runs of anything else but white space."""


def compile_pattern(special_tokens: Sequence[str] = ()) -> regex.Pattern[str]:
    """The word pattern, with special tokens as words of their own, before all others.

    A special token is escaped, so that `<|a|>` or `(+)` stands for itself.
    """
    return regex.compile(
        "|".join([*map(regex.escape, special_tokens), WORD_PATTERN]), regex.IGNORECASE
    )

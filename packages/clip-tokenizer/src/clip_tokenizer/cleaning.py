"""The cleaning of a text before it is split into words.

Three modes, the same as open_clip's:

- `lower`: repair mojibake (ftfy), resolve HTML entities twice, collapse white space, lower case;
- `whitespace`: the same with the case kept;
- `canonicalize`: repair, resolve, underscores to spaces, no ASCII punctuation, lower, collapse.

*Plain* text is ASCII without `&` and without control characters other than tab, newline, form feed
and carriage return. ftfy and HTML leave plain text as it is, so it takes a path that costs a few
nanoseconds a letter; everything else takes the full path. A test compares the two.
"""

from __future__ import annotations

import html
import string
from collections.abc import Sequence
from typing import Literal, get_args

import ftfy

from clip_tokenizer.errors import TokenizerError

CleanMode = Literal["lower", "whitespace", "canonicalize"]
CLEAN_MODES: tuple[CleanMode, ...] = get_args(CleanMode)

CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\f\r")) + b"\x7f"
"""The ASCII characters that a plain text does not have, besides `&`."""

SEPARATOR = "\x00"
"""Separates the texts of a batch, as a chunk."""

_JOINT = f" {SEPARATOR} "
_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def check_clean_mode(mode: str) -> CleanMode:
    """`mode` itself if it is a cleaning mode.

    Raises:
        TokenizerError: If it is none.
    """
    for known in CLEAN_MODES:
        if mode == known:
            return known
    raise TokenizerError(f"clean must be one of {', '.join(CLEAN_MODES)}, got {mode!r}")


def clean_text(text: str, mode: CleanMode) -> str:
    """The text repaired, with HTML entities resolved, in the case of the mode."""
    return " ".join(normalize_case(repair(text), mode).split())


def repair(text: str) -> str:
    """`text` with mojibake repaired and HTML entities resolved twice."""
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def normalize_case(text: str, mode: CleanMode) -> str:
    """The case and punctuation part of a mode; whitespace is left for `str.split` to collapse."""
    if mode == "whitespace":
        return text
    if mode == "canonicalize":
        text = text.translate(_PUNCTUATION)
    return text.lower()


def clean_batch(texts: Sequence[str], mode: CleanMode) -> str:
    """The cleaned texts in one string, `SEPARATOR` between them; white space is not collapsed.

    `str.split` of the result gives the chunks of all texts and the separators. No cleaned text
    holds a separator: ftfy drops the character, and no HTML entity resolves to it.
    """
    joined = _JOINT.join(texts)
    if joined.isascii() and "&" not in joined and count_controls(joined) == len(texts) - 1:
        return normalize_case(joined, mode)
    return _JOINT.join(
        [normalize_case(text if is_plain(text) else repair(text), mode) for text in texts]
    )


def count_controls(text: str) -> int:
    """Number of the control characters of an ASCII text that make it not plain."""
    return len(text) - len(text.encode("ascii").translate(None, CONTROLS))


def is_plain(text: str) -> bool:
    """Whether ftfy and HTML would not change `text`, decided without running them."""
    return text.isascii() and "&" not in text and not count_controls(text)

"""Text in columns on a terminal."""

from __future__ import annotations

import unicodedata


def display_width(text: str) -> int:
    """Columns that a text takes in a terminal: wide characters count twice, combining ones not."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def pad(text: str, width: int) -> str:
    """The text with spaces after it, up to a number of columns."""
    return text + " " * (width - display_width(text))

"""The one exception this package raises for a caller's mistake."""

from __future__ import annotations


class TokenizerError(ValueError):
    """A text, an option or a file that cannot be used; the message says what to do instead."""

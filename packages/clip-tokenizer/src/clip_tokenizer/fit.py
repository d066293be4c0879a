"""Whether a tokenizer belongs to a text tower: their sizes and the end token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from clip_tokenizer.errors import TokenizerError

LEAST_SHARE = 0.9
"""Least share of a tower's ids that its tokenizer has: tables are rounded up, by BERT's in CLIPA's
tower of 32,000 by 5 %; a tokenizer with fewer is another one."""


class AnyTokenizer(Protocol):
    """What is compared."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, the largest and one."""
        ...


def check_text_tower(tokenizer: AnyTokenizer, text: Mapping[str, Any]) -> None:
    """Check that the ids of a tokenizer are those of a text tower.

    Args:
        tokenizer: A tokenizer of this package, or anything with its `vocab_size` and, if it has
            them, `context_length` and `eot_token_id`.
        text: The text part of a config, as a table: `vocab_size` and, if it has them,
            `context_length`, `end_token_id` (None: the feature is read elsewhere).

    Raises:
        TokenizerError: They do not belong together; the message has both numbers.
    """
    size, known = tokenizer.vocab_size, text.get("vocab_size")
    if known is not None and size > known:
        raise TokenizerError(
            f"the tokenizer has {size:,} ids and the model only {known:,}; they do not belong "
            "together"
        )
    if known is not None and size < LEAST_SHARE * known:
        raise TokenizerError(
            f"the tokenizer has only {size:,} ids and the model {known:,}; give its own one"
        )
    length, context = getattr(tokenizer, "context_length", None), text.get("context_length")
    if length is not None and context is not None and length > context:
        raise TokenizerError(
            f"the tokenizer makes {length} tokens and the model reads {context}; they do not "
            "belong together"
        )
    end, expected = getattr(tokenizer, "eot_token_id", None), text.get("end_token_id")
    if end is not None and expected is not None and end != expected:
        raise TokenizerError(
            f"texts of the tokenizer end with the token {end}, and the model reads its feature at "
            f"the token {expected}; they do not belong together"
        )

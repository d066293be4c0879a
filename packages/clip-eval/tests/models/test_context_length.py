"""How many texts a tokenizer cuts: ours say it, of others the rows are compared."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from clip_eval.models.context_length import count_cut
from clip_tokenizer import Tokenizer

WORDS = [" ".join(["dog"] * n) for n in (1, 5, 6, 7, 30)]


def test_our_tokenizers_tell_exactly() -> None:
    tokenizer = Tokenizer.openai(context_length=8)
    assert count_cut(tokenizer, WORDS) == (2, 8, True)
    assert count_cut(tokenizer, []) == (0, 8, True)


def test_rows_of_another_library_that_are_full() -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=8)
    found = count_cut(tokenizer, WORDS)
    assert found == (3, 8, False)  # the text of exactly six words fills its row too
    assert count_cut(tokenizer, WORDS[:2]).num_cut == 0


@pytest.mark.parametrize("width", [1, 12])
def test_what_is_no_row_of_tokens_in_order_is_not_judged(width: int) -> None:
    def letters(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[len(set(text)) + n for n in range(width)] for text in texts])

    tokenizer: Any = letters
    assert count_cut(tokenizer, ["a" * 100]).num_cut == 0

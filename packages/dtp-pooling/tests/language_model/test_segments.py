"""Segments of a text, against a model whose boundaries are known."""

from __future__ import annotations

import pytest
import torch
from dtp_pooling import BoundaryConfig, DynamicPoolingLM, LanguageModelConfig
from dtp_pooling.language_model.segments import find_segments

SIZES = {"width": 8, "num_heads": 2, "head_dim": 4, "feedforward": 8}
LAYERS = {"pre_layers": 1, "shortened_layers": 1, "post_layers": 1}


def make(kind: str, **settings: object) -> DynamicPoolingLM:
    torch.manual_seed(0)
    boundaries = BoundaryConfig(kind=kind, **settings)  # type: ignore[arg-type]
    config = LanguageModelConfig(**SIZES, **LAYERS, vocabulary=27, boundaries=boundaries)  # type: ignore[arg-type]
    return DynamicPoolingLM(config).eval()


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize(("window", "stride"), [(64, 64), (16, 4), (7, 7)])
def test_words_are_the_segments_of_whitespace(start: int, window: int, stride: int) -> None:
    letters = " abcdefghijklmnopqrstuvwxyz"
    text = "one two  three four five six seven "
    ids = torch.tensor([letters.index(letter) for letter in text])
    found = find_segments(make("whitespace"), ids, start, len(text), window=window, stride=stride)
    expected, first = [], start
    for place in range(start, len(text)):
        if text[place] == " ":
            expected.append((first, place + 1))
            first = place + 1
    assert found == expected


def test_windows_with_enough_context_change_nothing_and_a_tail_is_kept() -> None:
    model = make("gumbel", rate=0.3)
    ids = torch.randint(27, (50,), generator=torch.Generator().manual_seed(1))
    whole = find_segments(model, ids, 0, 50, window=50, stride=50)
    boundaries = model(ids[None]).boundaries
    assert boundaries is not None
    ends = [int(place) + 1 for place in boundaries[0].nonzero()[:, 0]]
    assert [last for _, last in whole] == (ends if ends[-1:] == [50] else [*ends, 50])
    assert find_segments(model, ids, 0, 50, window=50, stride=7) == whole


def test_what_has_no_segments_is_refused() -> None:
    ids = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ValueError, match="pools nothing"):
        find_segments(make("none"), ids, 0, 5, window=8, stride=8)
    for start, end in ((-1, 3), (3, 3), (0, 6)):
        with pytest.raises(ValueError, match="expected a part of the text's 5 characters"):
            find_segments(make("whitespace"), ids, start, end, window=8, stride=8)

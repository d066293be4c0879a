from __future__ import annotations

import math

import pytest
import torch
from dtp_pooling import BoundaryConfig, DynamicPoolingLM, LanguageModelConfig
from dtp_pooling.language_model.bits_per_character import _make_windows, bits_per_character

V = 27


def build(kind: str = "whitespace") -> DynamicPoolingLM:
    torch.manual_seed(0)
    config = LanguageModelConfig(
        width=16,
        num_heads=2,
        head_dim=8,
        feedforward=16,
        pre_layers=1,
        shortened_layers=1,
        post_layers=1,
        boundaries=BoundaryConfig(kind=kind, space=3),
    )
    return DynamicPoolingLM(config).eval()


def text(size: int) -> torch.Tensor:
    return torch.randint(0, V, (size,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 31, 64, 101])
@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 3), (8, 1), (200, 50)])
def test_every_character_is_scored_once_with_enough_context(size, window, stride):
    scored = []
    for start, first, end in _make_windows(size, window, stride):
        assert end - 1 - start <= window
        assert start < first
        assert first - start >= min(first, window - stride + 1)
        scored += range(first, end)
    assert scored == list(range(1, size))


def test_a_uniform_model_has_log2_of_the_alphabet():
    model = build()
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    result = bits_per_character(model, text(150), window=16, stride=5, batch=4)
    assert result.bits == pytest.approx(math.log2(27), abs=1e-6)
    assert result.characters == 150


@pytest.mark.parametrize("kind", ["none", "whitespace", "gumbel"])
def test_bits_equal_a_loop_over_characters(kind):
    model, ids, window, stride = build(kind), text(60), 16, 5
    bits = math.log2(V)
    position = 1
    while position < 60:
        end = min(60, position + (window if position == 1 else stride))
        start = max(0, end - 1 - window)
        for t in range(position, end):
            with torch.no_grad():
                logits = model(ids[None, start:t]).logits[0, -1]
            bits -= float(logits.log_softmax(-1)[ids[t]]) / math.log(2)
        position = end
    for batch in (1, 3, 16):
        result = bits_per_character(model, ids, window=window, stride=stride, batch=batch)
        assert result.bits == pytest.approx(bits / 60, abs=1e-5)


def test_shortening_is_characters_per_boundary():
    ids = torch.zeros(41, dtype=torch.int64)
    ids[::4] = 3  # the space of this model
    result = bits_per_character(build(), ids, window=40, stride=40)
    assert result.shortening == 4.0
    assert bits_per_character(build("none"), ids).shortening == 1.0


def test_more_context_than_text_is_one_window():
    assert len(_make_windows(100, 2048, 512)) == 1


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="stride must be within 1 and window = 8"):
        bits_per_character(build(), text(9), window=8, stride=9)
    with pytest.raises(ValueError, match=r"model\.eval"):
        bits_per_character(build().train(), text(9))
    with pytest.raises(ValueError, match="empty text"):
        bits_per_character(build(), text(0))

"""Noise that belongs to a sample."""

from __future__ import annotations

import pytest
import torch
from clip_models.pooling import hashed_uniform
from clip_train.randomness import hashed_normal

KEYS = torch.tensor([3, -7, 2**62, 0])


def splitmix64(key: int, place: int) -> int:
    """The published algorithm on Python's integers."""
    mask = 2**64 - 1
    z = (key + (place + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_uniform_is_splitmix64() -> None:
    expected = [[((splitmix64(k, n) >> 41) + 0.5) / 2**23 for n in range(5)] for k in KEYS.tolist()]
    torch.testing.assert_close(
        hashed_uniform(KEYS, 5), torch.tensor(expected, dtype=torch.float32), rtol=0, atol=0
    )


@pytest.mark.parametrize("draw", [hashed_uniform, hashed_normal])
def test_a_row_depends_on_its_key_alone(draw) -> None:  # type: ignore[no-untyped-def]
    together = draw(KEYS, 8)
    for row, key in zip(together, KEYS, strict=True):
        assert torch.equal(draw(key[None], 8)[0], row)


def test_start_goes_on_where_another_draw_ended() -> None:
    whole = hashed_uniform(KEYS, 10)
    assert torch.equal(hashed_uniform(KEYS, 6, start=4), whole[:, 4:])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_normal_has_the_asked_number(count: int) -> None:
    assert hashed_normal(KEYS, count).shape == (4, count)


def test_normal_is_standard_normal() -> None:
    drawn = hashed_normal(torch.arange(64), 20_001).double()
    n = drawn.numel()
    assert abs(drawn.mean().item()) < 5 / n**0.5
    assert abs(drawn.var().item() - 1) < 5 * (2 / n) ** 0.5
    below_one = (drawn < 1).double().mean().item()
    assert abs(below_one - 0.8413447) < 5 * (0.1335 / n) ** 0.5
    neighbours = (drawn[:, 1:] * drawn[:, :-1]).mean().item()
    assert abs(neighbours) < 5 / n**0.5

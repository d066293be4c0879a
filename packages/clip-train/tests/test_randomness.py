"""Keyed random numbers: pinned, uniform, independent of batch and order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_models.pooling import hashed_uniform
from clip_train.randomness import (
    _mix,
    as_float32,
    hashed_normal,
    keyed_bits,
    keyed_permutation,
    keyed_uniform,
)

PINNED_ORDER = [4, 1, 7, 5, 0, 3, 2, 6]
PINNED_WORD = 4073641973805453896


GOLDEN = 0x9E3779B97F4A7C15
KEYS = torch.tensor([3, -7, 2**62, 0])


def splitmix64(state: int) -> int:
    """One output of SplitMix64 on Python's integers."""
    mask = 2**64 - 1
    state = (state + GOLDEN) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_mixing_is_splitmix64() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # published first output for seed 0
    states = [0, 1, 2**63, 2**64 - 1, 123456789]
    mixed = _mix(np.array(states, dtype=np.uint64))
    assert mixed.tolist() == [splitmix64(state) for state in states]


def test_numbers_depend_on_the_key_alone() -> None:
    positions = np.arange(1000)
    together = keyed_bits(7, 3, positions, "crop", 4)
    apart = np.concatenate([keyed_bits(7, 3, positions[i : i + 1], "crop", 4) for i in (5, 999)])
    assert np.array_equal(together[[5, 999]], apart)
    assert np.array_equal(together[:, :2], keyed_bits(7, 3, positions, "crop", 2))


@pytest.mark.parametrize("other", [(8, 3, "crop"), (7, 4, "crop"), (7, 3, "shift")])
def test_every_part_of_the_key_matters(other: tuple[int, int, str]) -> None:
    positions = np.arange(1000)
    seed, epoch, purpose = other
    ours = keyed_uniform(7, 3, positions, "crop")[:, 0]
    theirs = keyed_uniform(seed, epoch, positions, purpose)[:, 0]
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < 0.12  # 3.8 standard errors


def test_uniform_is_uniform() -> None:
    numbers = keyed_uniform(0, 0, np.arange(20_000), "x", 3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    chi_square = ((counts - 3000) ** 2 / 3000).sum()
    assert chi_square < 43.8  # 99.9 % point at 19 degrees of freedom
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("length", [1, 2, 10, 1000])
def test_permutation_is_one(length: int) -> None:
    order = keyed_permutation(1, 2, length, "order")
    assert sorted(order.tolist()) == list(range(length))


def test_pinned_values() -> None:
    """The order of everyone's runs: a change here breaks resume and reproduction."""
    assert keyed_permutation(0, 0, 8, "order").tolist() == PINNED_ORDER
    assert keyed_bits(1, 2, np.array([3]), "crop").tolist() == [[PINNED_WORD]]


def test_in_float32_a_number_stays_below_one() -> None:
    found = as_float32(np.array([0.0, 0.3, 1 - 2.0**-26, 1 - 2.0**-53]))
    assert found.dtype == np.float32
    assert found.tolist() == [0.0, np.float32(0.3), 1 - 2.0**-24, 1 - 2.0**-24]


def test_hashed_uniform_is_splitmix64() -> None:
    expected = [
        [((splitmix64(key + n * GOLDEN) >> 41) + 0.5) / 2**23 for n in range(5)]
        for key in KEYS.tolist()
    ]
    torch.testing.assert_close(
        hashed_uniform(KEYS, 5), torch.tensor(expected, dtype=torch.float32), rtol=0, atol=0
    )


@pytest.mark.parametrize("draw", [hashed_uniform, hashed_normal])
def test_a_hashed_row_depends_on_its_key_alone(draw) -> None:  # type: ignore[no-untyped-def]
    together = draw(KEYS, 8)
    for row, key in zip(together, KEYS, strict=True):
        assert torch.equal(draw(key[None], 8)[0], row)


def test_start_continues_where_another_draw_ended() -> None:
    whole = hashed_uniform(KEYS, 10)
    assert torch.equal(hashed_uniform(KEYS, 6, start=4), whole[:, 4:])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_hashed_normal_has_the_count_it_was_given(count: int) -> None:
    assert hashed_normal(KEYS, count).shape == (4, count)


def test_hashed_normal_is_standard_normal() -> None:
    drawn = hashed_normal(torch.arange(64), 20_001).double()
    n = drawn.numel()
    assert abs(drawn.mean().item()) < 5 / n**0.5
    assert abs(drawn.var().item() - 1) < 5 * (2 / n) ** 0.5
    below_one = (drawn < 1).double().mean().item()
    assert abs(below_one - 0.8413447) < 5 * (0.1335 / n) ** 0.5
    neighbours = (drawn[:, 1:] * drawn[:, :-1]).mean().item()
    assert abs(neighbours) < 5 / n**0.5

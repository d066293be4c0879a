from __future__ import annotations

import pytest
import torch
from dtp_pooling.pooling.noise import logistic_noise, row_keys, sample_generators
from dtp_pooling.pooling.splitmix64 import hashed_uniform

CPU = torch.device("cpu")


def splitmix(key: int, position: int) -> int:
    """SplitMix64's output number `position` of the stream `key`, in Python integers."""
    mask = 2**64 - 1
    x = (key + (position + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_uniform_is_splitmix():
    keys = torch.tensor([0, 1234567, -5])
    expected = [
        [((splitmix(key % 2**64, t) >> 41) + 0.5) / 2**23 for t in range(9)]
        for key in keys.tolist()
    ]
    assert hashed_uniform(keys, 9).tolist() == expected


def test_first_output_is_the_published_one_of_seed_zero():
    assert splitmix(0, 0) == 0xE220A8397B1DCDAF
    assert hashed_uniform(torch.tensor([0]), 1).item() == ((0xE220A8397B1DCDAF >> 41) + 0.5) / 2**23


def test_uniform_is_open_and_uniform():
    u = hashed_uniform(torch.arange(8), 20000).flatten()
    assert 0 < u.min() < u.max() < 1
    counts = torch.histc(u, bins=16, min=0, max=1)
    expected = u.numel() / 16
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 45  # 15 degrees of freedom: p < 1e-4 above
    assert abs(torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]) < 0.01


def test_logistic_is_finite_with_the_right_spread():
    noise = logistic_noise(hashed_uniform(torch.arange(8), 20000))
    assert noise.isfinite().all()
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - torch.pi / 3**0.5) < 0.02


def test_numbers_do_not_depend_on_length_start_or_batch():
    keys = torch.tensor([3, 4, 5])
    whole = hashed_uniform(keys, 50)
    assert torch.equal(hashed_uniform(keys, 20), whole[:, :20])
    assert torch.equal(hashed_uniform(keys, 10, start=7), whole[:, 7:17])
    per_row = hashed_uniform(keys, 10, start=torch.tensor([0, 3, 6]))
    assert torch.equal(per_row[2], whole[2, 6:16])
    assert torch.equal(hashed_uniform(keys[1:2], 50)[0], whole[1])
    assert not torch.equal(whole[0], whole[1])


def test_row_keys_come_from_each_rows_generator():
    together = row_keys(3, sample_generators(7, [10, 11, 12]), CPU)
    alone = row_keys(1, sample_generators(7, [11]), CPU)
    assert together[1] == alone[0]
    assert len(set(together.tolist())) == 3
    assert row_keys(1, sample_generators(8, [11]), CPU) != alone


def test_a_generator_advances_from_step_to_step():
    generators = sample_generators(0, [0])
    assert row_keys(1, generators, CPU) != row_keys(1, generators, CPU)


def test_one_generator_for_all_rows_is_reproducible():
    one = row_keys(4, torch.Generator().manual_seed(1), CPU)
    two = row_keys(4, torch.Generator().manual_seed(1), CPU)
    assert torch.equal(one, two)


def test_given_keys_are_the_keys():
    keys = torch.tensor([5, -6, 2**62])
    assert torch.equal(row_keys(3, keys, CPU), keys)
    with pytest.raises(ValueError, match=r"int64, one per row: \(2,\), got torch\.int64 \(3,\)"):
        row_keys(2, keys, CPU)
    with pytest.raises(ValueError, match=r"got torch\.float32"):
        row_keys(3, keys.float(), CPU)


def test_wrong_number_of_generators():
    with pytest.raises(ValueError, match="one generator per row, 2, got 1"):
        row_keys(2, sample_generators(0, [0]), CPU)
    assert sample_generators(0, []) == []

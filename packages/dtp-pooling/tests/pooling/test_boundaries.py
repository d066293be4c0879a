from __future__ import annotations

import math

import pytest
import torch
from dtp_pooling import pool
from dtp_pooling.pooling.boundaries import (
    entropy_spikes,
    fixed_boundaries,
    gumbel_boundaries,
    random_boundaries,
    threshold_boundaries,
    top_k_boundaries,
    whitespace_boundaries,
)
from dtp_pooling.pooling.noise import logistic_noise, row_keys, sample_generators
from dtp_pooling.pooling.splitmix64 import hashed_uniform

CPU = torch.device("cpu")
D = 6


def tokens(batch: int = 3, length: int = 11) -> torch.Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(5))


def test_fixed_counts_from_the_position_of_the_first_token():
    assert fixed_boundaries(1, 7, 3, device=CPU).tolist() == [[0, 0, 1, 0, 0, 1, 0]]
    moved = fixed_boundaries(2, 3, 3, torch.tensor([1, 2]), device=CPU)
    assert moved.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert fixed_boundaries(1, 4, 1, device=CPU).all()


def test_whitespace_closes_the_word_at_its_space():
    text = torch.tensor([[3, 0, 5, 6, 0, 0]])
    assert whitespace_boundaries(text, 0).tolist() == [[0, 1, 0, 0, 1, 1]]


def test_random_has_its_rate():
    b = random_boundaries(hashed_uniform(torch.arange(16), 4000), 0.2)
    assert abs(b.mean() - 0.2) < 0.01
    assert set(b.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("left", [1, 2, 4])
def test_entropy_spikes_equal_the_definition(left):
    logits = torch.randn(2, 15, 9, generator=torch.Generator().manual_seed(0)) * 2
    probability = logits.softmax(-1)
    entropy = -(probability * probability.log()).sum(-1)
    got = entropy_spikes(logits, left)
    for row in range(2):
        for t in range(15):
            before = [entropy[row, t - i] for i in range(1, left + 1) if t >= i]
            assert got[row, t] == all(entropy[row, t] > other for other in before)


def test_entropy_spikes_only_look_back():
    logits = torch.randn(1, 10, 4, requires_grad=True)
    changed = torch.cat([logits[:, :6], torch.randn(1, 4, 4)], 1)
    spikes = entropy_spikes(logits)
    assert torch.equal(spikes[:, :6], entropy_spikes(changed)[:, :6])
    assert not spikes.requires_grad


def test_gumbel_samples_bernoulli():
    for probability in (0.2, 0.7):
        logits = torch.full((8, 4000), math.log(probability / (1 - probability)))
        b = gumbel_boundaries(logits, noise=logistic_noise(hashed_uniform(torch.arange(8), 4000)))
        assert abs(b.mean() - probability) < 0.01


def test_gumbel_is_exactly_binary_with_the_gradient_of_the_relaxation():
    logits = (torch.randn(4, 500, generator=torch.Generator().manual_seed(0)) * 5).requires_grad_()
    noise = logistic_noise(hashed_uniform(torch.arange(4), 500))
    hard = gumbel_boundaries(logits, 0.5, noise)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    weight = torch.randn(4, 500)
    (hard * weight).sum().backward()
    soft = torch.sigmoid((logits.detach() + noise) / 0.5)
    torch.testing.assert_close(logits.grad, weight * soft * (1 - soft) / 0.5)


def test_gumbel_without_noise_is_the_threshold_at_one_half():
    logits = torch.tensor([[-1.0, 0.0, 1e-3, 5.0]])
    assert gumbel_boundaries(logits).tolist() == [[0, 0, 1, 1]]
    assert threshold_boundaries(logits).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("rate", [0.25, 0.5, 1.0])
def test_top_k_is_exact_and_takes_the_highest(rate):
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    k = torch.full((5,), int(rate * 40))
    b = top_k_boundaries(logits, k)
    assert torch.equal(b.sum(1), k.float())
    for row in range(5):
        chosen = logits[row][b[row] == 1]
        rest = logits[row][b[row] == 0]
        assert rest.numel() == 0 or chosen.min() > rest.max()


def test_top_k_breaks_ties_by_the_earlier_token_and_respects_candidates():
    logits = torch.zeros(2, 6)
    candidates = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 1]]).bool()
    b = top_k_boundaries(logits, torch.tensor([2, 2]), candidates)
    assert b.tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0]]
    assert top_k_boundaries(logits, torch.tensor([0, 3]), candidates).sum(1).tolist() == [0, 3]
    none = top_k_boundaries(logits, torch.tensor([1, 1]), torch.zeros(2, 6, dtype=torch.bool))
    assert none.sum() == 0
    assert none.isfinite().all()


def test_top_k_gradient_is_that_of_the_sigmoid_at_the_threshold():
    logits = torch.tensor([[0.0, 1.0, 2.0, 4.0]], requires_grad=True)
    b = top_k_boundaries(logits, torch.tensor([2]), temperature=0.7)
    assert b.tolist() == [[0, 0, 1, 1]]
    b.sum().backward()
    soft = torch.sigmoid((logits.detach() - 1.5) / 0.7)
    torch.testing.assert_close(logits.grad, soft * (1 - soft) / 0.7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", ["gumbel", "top_k"])
def test_no_nan_at_extreme_logits(dtype, rule):
    logits = torch.tensor([[80.0, -80.0, 80.0, -80.0, 0.0]], dtype=dtype, requires_grad=True)
    noise = logistic_noise(hashed_uniform(torch.tensor([1]), 5))
    if rule == "gumbel":
        b = gumbel_boundaries(logits, 0.5, noise)
    else:
        b = top_k_boundaries(logits, torch.tensor([2]), noise=noise)
    h = torch.randn(1, 5, D, dtype=dtype, requires_grad=True)
    values = pool(h, b).values
    values.float().pow(2).sum().backward()
    assert values.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert h.grad is not None
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("rule", ["gumbel", "top_k", "random"])
def test_sampled_boundaries_of_a_row_do_not_depend_on_its_batch(rule):
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(2))

    def sample(rows: list[int]) -> torch.Tensor:
        keys = row_keys(len(rows), sample_generators(1, rows), CPU)
        if rule == "random":
            return random_boundaries(hashed_uniform(keys, 20), 0.3)
        noise = logistic_noise(hashed_uniform(keys, 20))
        if rule == "gumbel":
            return gumbel_boundaries(logits[rows], noise=noise)
        return top_k_boundaries(logits[rows], torch.full((len(rows),), 5), noise=noise)

    assert torch.equal(sample([0, 1, 2])[1], sample([1])[0])
    assert not torch.equal(sample([0])[0], sample([2])[0])


def test_wrong_arguments_say_what_was_expected():
    with pytest.raises(ValueError, match="factor must be at least 1"):
        fixed_boundaries(1, 4, 0, device=CPU)
    with pytest.raises(ValueError, match="left must be at least 1"):
        entropy_spikes(torch.zeros(1, 2, 3), 0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        gumbel_boundaries(torch.zeros(1, 2), 0.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        top_k_boundaries(torch.zeros(1, 2), torch.tensor([1]), temperature=-1.0)

"""Batches of a number of tokens: a function of seed, epoch and step, shared evenly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from clip_models import ConfigError
from clip_train.plan.batch_schedule import BatchSizes
from clip_train.plan.sample_order import ShardedOrder
from clip_train.plan.sample_plan import SamplePlan, describe_tokens
from clip_train.plan.token_batches import (
    UNIT,
    TokenBatches,
    count_patches,
    measure_imbalance,
    share_work,
)

LENGTHS = (16, 36, 64)
SIZES = np.array([(64, 64), (96, 32), (30, 100), (64, 48), (1000, 900), (0, 0)])


def schedule(
    count: int = 500, seed: int = 0, budget: int = 900, shares: tuple[float, ...] = ()
) -> TokenBatches:
    pixels = SIZES[np.random.default_rng(0).integers(0, len(SIZES), count)]
    costs = np.stack([UNIT * (1 + count_patches(pixels, 8, length)) for length in LENGTHS])
    return TokenBatches(ShardedOrder((count,), seed), costs, LENGTHS, shares, budget, seed)


def test_patches_of_sizes() -> None:
    assert count_patches(SIZES, 8, 64).tolist() == [64, 48, 56, 63, 64, 64]
    assert count_patches(SIZES, 8, 16).max() == 16


def test_no_step_exceeds_the_budget_and_each_is_as_long_as_it_allows() -> None:
    batches = schedule()
    for epoch in range(2):
        cut, indices = batches.cut(epoch), batches.order.indices(epoch, np.arange(500))
        for row, start, count in zip(*cut, strict=True):
            places = np.arange(start, start + count + 1) % 500
            costs = batches.costs[row, indices[places]]
            assert costs[:-1].sum() <= 900 * UNIT < costs.sum()


def test_an_epoch_sees_every_sample_once_and_wraps_at_its_end() -> None:
    batches, step = schedule(), 0
    for epoch in range(3):
        seen: Counter[int] = Counter()
        for _ in range(batches.steps_in(epoch)):
            found = batches.batch(step)
            assert found.epoch == epoch
            assert found.image_size is None
            assert found.max_tokens in LENGTHS
            places = range(found.start, found.start + found.num_samples)
            seen.update(place % 500 for place in places)
            step += 1
        assert set(seen) == set(range(500))
        assert sum(seen.values()) - 500 == batches.wrapped_in(epoch)


def test_any_step_can_be_computed_at_any_time() -> None:
    walked = [schedule().batch(step) for step in range(150)]
    assert {batch.epoch for batch in walked} > {0, 1, 2}
    other = schedule()
    assert [other.batch(step) for step in reversed(range(150))] == walked[::-1]
    assert [schedule(seed=1).batch(step) for step in range(150)] != walked


def test_shares_of_the_lengths() -> None:
    batches = schedule(20_000, shares=(1, 2, 5))
    rows = np.concatenate([batches.cut(epoch).rows for epoch in range(3)])
    shares = np.bincount(rows) / len(rows)
    assert np.abs(shares - np.array([1, 2, 5]) / 8).max() < 0.03


def test_the_variable_batch_sampler_is_the_case_of_equal_squares() -> None:
    """A row of CoreNet's table is what the budget of its base size holds of squares of its side."""
    table = BatchSizes(
        base_size=224, batch_size=256, min_size=160, max_size=320, num_sizes=5, divisor=32
    ).table()
    lengths = [(side // 32) ** 2 for side, _ in table]
    costs = np.array([[UNIT * length] * 2000 for length in lengths])
    order = ShardedOrder((2000,), 0)
    batches = TokenBatches(order, costs, lengths, (), 256 * 7**2, 0)
    cut = batches.cut(0)
    assert {(int(row), int(count)) for row, _, count in zip(*cut, strict=True)} == {
        (row, count) for row, (_, count) in enumerate(table) if row in cut.rows
    }


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_work_is_shared_evenly_in_order(parts: int) -> None:
    numbers = np.random.default_rng(1)
    for _ in range(50):
        costs = numbers.integers(1, 100, numbers.integers(parts, 60))
        shares = share_work(costs, parts)
        joined = np.concatenate([np.arange(len(costs))[share] for share in shares])
        assert joined.tolist() == list(range(len(costs)))
        assert all(share.stop > share.start for share in shares)
        mean = costs.sum() / parts
        if len(costs) > 4 * parts:
            assert all(costs[share].sum() <= mean + costs.max() for share in shares)
        assert measure_imbalance(costs, parts) >= 1
    assert share_work(np.array([5, 5, 5, 5]), 2) == [slice(0, 2), slice(2, 4)]
    assert measure_imbalance(np.array([5, 5, 5, 5]), 4) == 1


def test_a_plan_names_what_its_steps_cost() -> None:
    batches = schedule()
    plan = SamplePlan(batches.order, batches)
    found = plan.batch(7)
    assert found.costs is not None
    assert found.costs.tolist() == batches.cost_of(found.indices, found.max_tokens or 0).tolist()
    assert plan.steps_per_epoch == batches.steps_in(0)
    text = describe_tokens(plan, 4)
    assert "of 900 in" in text
    assert "the busiest process has up to 1." in text
    assert "busiest" not in describe_tokens(plan, 1)


def test_budgets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="must hold a sample, of up to 65 tokens"):
        schedule(budget=64)
    with pytest.raises(ConfigError, match=r"fewer than data\.token_budget = 1000000"):
        schedule(budget=10**6)
    assert schedule(budget=200).least_samples == 3

"""The sample plan: a pure function of the step, each epoch the data set once."""

from __future__ import annotations

import numpy as np
import pytest
from clip_models import ConfigError
from clip_train.plan.batch_schedule import ConstantBatches
from clip_train.plan.sample_order import ShardedOrder
from clip_train.plan.sample_plan import SamplePlan


def make_plan(num_samples: int, batch_size: int, seed: int) -> SamplePlan:
    order = ShardedOrder((num_samples,), seed)
    return SamplePlan(order, ConstantBatches(num_samples, batch_size))


def test_an_epoch_is_the_data_set_without_its_remainder() -> None:
    plan = make_plan(num_samples=23, batch_size=5, seed=1)
    assert plan.steps_per_epoch == 4
    seen = np.concatenate([plan.batch(step).indices for step in range(4)])
    assert len(set(seen.tolist())) == 20
    assert set(seen.tolist()) < set(range(23))


def test_without_remainder_every_sample_comes_once() -> None:
    plan = make_plan(num_samples=20, batch_size=5, seed=1)
    for epoch in range(3):
        steps = range(4 * epoch, 4 * epoch + 4)
        seen = np.concatenate([plan.batch(step).indices for step in steps])
        assert sorted(seen.tolist()) == list(range(20))


def test_epochs_differ_and_steps_can_be_asked_for_in_any_order() -> None:
    plan = make_plan(num_samples=100, batch_size=10, seed=1)
    forwards = [plan.batch(step).indices.tolist() for step in range(30)]
    backwards = [plan.batch(step).indices.tolist() for step in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert forwards[:10] != forwards[10:20]
    assert plan.batch(10).epoch == 1
    assert plan.batch(10).positions.tolist() == list(range(10))


@pytest.mark.parametrize(("epochs", "steps"), [(1, 4), (2.5, 10), (0.2, 0), (3, 12)])
def test_steps_of_epochs(epochs: float, steps: int) -> None:
    assert make_plan(num_samples=23, batch_size=5, seed=1).steps_in_epochs(epochs) == steps


def test_the_seed_matters() -> None:
    one, two = (make_plan(num_samples=100, batch_size=10, seed=seed) for seed in (1, 2))
    assert one.batch(0).indices.tolist() != two.batch(0).indices.tolist()


def test_replacements_are_fixed_and_in_range() -> None:
    plan = make_plan(num_samples=7, batch_size=2, seed=1)
    first = [plan.replacement(0, 3, attempt) for attempt in range(50)]
    assert first == [plan.replacement(0, 3, attempt) for attempt in range(50)]
    assert set(first) == set(range(7))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"7 samples, fewer than train\.batch_size = 8"):
        make_plan(num_samples=7, batch_size=8, seed=0)

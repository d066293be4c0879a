"""Batches of one size and of many."""

from __future__ import annotations

from collections import Counter

import pytest
from clip_models import ConfigError
from clip_train.config.data import DataConfig, VariableSizesConfig
from clip_train.config.run import Config
from clip_train.config.training import TrainConfig
from clip_train.engine.runs import for_overfitting
from clip_train.plan.batch_schedule import (
    BatchSizes,
    ConstantBatches,
    VariableBatches,
    make_schedule,
    round_to_multiple,
)

CORENET = BatchSizes(
    base_size=224, batch_size=256, min_size=160, max_size=320, num_sizes=5, divisor=32
)


def test_published_table() -> None:
    assert CORENET.table() == [
        (160, 501),
        (192, 348),
        (224, 256),
        (256, 196),
        (288, 154),
        (320, 125),
    ]


def test_table_of_many_processes_is_the_table_of_one_times_their_number() -> None:
    many = BatchSizes(224, 65536, 160, 320, 5, 32, multiple_of=256)
    assert many.table() == [(size, 256 * batch) for size, batch in CORENET.table()]


@pytest.mark.parametrize(
    ("value", "divisor", "expected"),
    [(200, 32, 192), (240, 32, 256), (16, 32, 32), (47, 32, 64), (48, 32, 64), (10, 32, 32)],
)
def test_rounding(value: float, divisor: int, expected: int) -> None:
    assert round_to_multiple(value, divisor) == expected


def schedule(num_samples: int = 1000, seed: int = 0) -> VariableBatches:
    return VariableBatches(num_samples, BatchSizes(32, 40, 16, 64, 4, 16), seed)


@pytest.mark.parametrize("num_samples", [160, 999, 1000, 4321])
def test_an_epoch_sees_every_sample_once_and_wraps_at_its_end(num_samples: int) -> None:
    batches = schedule(num_samples)
    step = 0
    for epoch in range(3):
        seen: Counter[int] = Counter()
        for _ in range(batches.steps_in(epoch)):
            found = batches.batch(step)
            assert found.epoch == epoch
            assert (found.image_size, found.num_samples) in batches.sizes.table()
            seen.update(
                p % num_samples for p in range(found.start, found.start + found.num_samples)
            )
            step += 1
        assert set(seen) == set(range(num_samples))
        assert sum(seen.values()) - num_samples == batches.wrapped_in(epoch)
        assert batches.wrapped_in(epoch) < 160


def test_sizes_are_a_function_of_seed_epoch_and_step() -> None:
    walked = [schedule().batch(step) for step in range(200)]
    assert [schedule().batch(step) for step in reversed(range(200))] == walked[::-1]
    assert [schedule(seed=1).batch(step) for step in range(200)] != walked
    first = [b.image_size for b in walked if b.epoch == 0]
    second = [b.image_size for b in walked if b.epoch == 1]
    assert first != second


def test_sizes_are_drawn_evenly() -> None:
    batches = VariableBatches(10**6, BatchSizes(32, 40, 16, 64, 4, 16), 0)
    steps = batches.steps_in(0)
    drawn = Counter(batches.batch(step).image_size for step in range(0, steps, 7))
    expected = len(range(0, steps, 7)) / len(batches.sizes.table())
    for count in drawn.values():
        assert abs(count - expected) < 5 * expected**0.5


def test_growth_changes_the_table_from_its_epoch_on() -> None:
    small, large = BatchSizes(32, 8, 16, 32, 2, 16), BatchSizes(32, 8, 32, 64, 2, 16)
    batches = VariableBatches(100, small, 0, growth=((1, large),))
    steps = batches.steps_in(0)
    before = {batches.batch(step).image_size for step in range(steps)}
    after = {batches.batch(step).image_size for step in range(steps, steps + 60)}
    assert before == {16, 32}
    assert after == {32, 64}


def test_schedule_of_a_config() -> None:
    assert make_schedule(10, 4, 32, VariableSizesConfig(), 0) == ConstantBatches(10, 4)
    sizes = VariableSizesConfig(num_sizes=5, growth_epochs=(2, 4), min_growth=1.0, max_growth=0.5)
    found = make_schedule(10**6, 256, 224, sizes, 3)
    assert isinstance(found, VariableBatches)
    assert found.sizes == CORENET
    ranges = [
        (found.sizes_in(epoch).min_size, found.sizes_in(epoch).max_size) for epoch in range(6)
    ]
    assert ranges == [(160, 320)] * 2 + [(320, 480)] * 2 + [(640, 720)] * 2


def test_constant_batches_drop_the_remainder() -> None:
    batches = ConstantBatches(10, 4)
    assert batches.steps_in(0) == 2
    found = [batches.batch(step) for step in range(5)]
    assert [(b.epoch, b.start, b.num_samples) for b in found] == [
        (0, 0, 4),
        (0, 4, 4),
        (1, 0, 4),
        (1, 4, 4),
        (2, 0, 4),
    ]


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="fewer than a batch of 160"):
        schedule(159)
    with pytest.raises(ConfigError, match="3 samples"):
        ConstantBatches(3, 4)


def test_pixels_of_a_batch_never_exceed_the_base() -> None:
    for size, batch in CORENET.table():
        assert size * size * batch <= 224 * 224 * 256


def test_the_one_batch_of_overfitting_has_the_models_size() -> None:
    data = DataConfig(variable_sizes=VariableSizesConfig(num_sizes=2))
    config = for_overfitting(Config(data=data, train=TrainConfig(overfit_batch=4)))
    assert config.data.variable_sizes.num_sizes == 0

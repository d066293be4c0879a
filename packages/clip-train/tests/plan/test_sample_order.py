"""Orders: every sample once, without being stored; shards near each other stay near."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from clip_models import ConfigError
from clip_train.plan.sample_order import MIX_BLOCK, MixedOrder, ShardedOrder
from clip_train.randomness import SORTED_LENGTH, keyed_permutation, permute


def epoch_of(order: ShardedOrder | MixedOrder, epoch: int) -> np.ndarray:
    return order.indices(epoch, np.arange(order.num_samples))


@pytest.mark.parametrize("sizes", [(50, 1, 7, 30), (88,), (1,) * 88, (0, 44, 0, 44), (87, 1)])
@pytest.mark.parametrize("streams", [1, 3, 32])
@pytest.mark.parametrize("buffer", [1, 10, 1000])
def test_every_sample_once_an_epoch(sizes: tuple[int, ...], streams: int, buffer: int) -> None:
    order = ShardedOrder(sizes, 3, streams, buffer)
    epochs = [epoch_of(order, epoch) for epoch in range(3)]
    for found in epochs:
        assert sorted(found.tolist()) == list(range(88))
    if sizes != (1,) * 88 or buffer > 1:
        assert (epochs[0] != epochs[1]).any()
    positions = np.array([80, 2, 41])
    assert np.array_equal(order.indices(1, positions), epochs[1][positions])


def slow_order(order: ShardedOrder, epoch: int) -> list[int]:
    """The description of the module, done with lists."""
    shards, first = [], 0
    for size in order.shard_sizes:
        shards.append(list(range(first, first + size)))
        first += size
    permutation = keyed_permutation(order.seed, epoch, len(shards), "order/shards")
    row = [sample for number in permutation for sample in shards[number]]
    least, more = divmod(len(row), order.streams)
    streams = []
    for number in range(order.streams):
        length = least + (number < more)
        streams.append(row[:length])
        row = row[length:]
    dealt = [s[turn] for turn in range(least + 1) for s in streams if turn < len(s)]
    result = []
    for block, start in enumerate(range(0, len(dealt), order.buffer)):
        part = dealt[start : start + order.buffer]
        places = keyed_permutation(order.seed, epoch, len(part), f"order/{block}")
        result += [part[place] for place in places]
    return result


@pytest.mark.parametrize("streams", [1, 4, 7])
def test_the_order_is_the_one_described(streams: int) -> None:
    order = ShardedOrder((20, 5, 31, 9), 11, streams, buffer=16)
    for epoch in (0, 5):
        assert epoch_of(order, epoch).tolist() == slow_order(order, epoch)


def test_at_any_time_samples_come_from_few_shards() -> None:
    order = ShardedOrder((1000,) * 200, 0, streams=8, buffer=4000)
    found = epoch_of(order, 0)
    for start in range(0, 200_000, 4000):
        shards = np.unique(found[start : start + 4000] // 1000)
        assert 8 <= len(shards) <= 16


def test_a_set_within_the_buffer_is_permuted_as_a_whole() -> None:
    order = ShardedOrder((40, 60), 7, buffer=100)
    assert np.array_equal(epoch_of(order, 2), keyed_permutation(7, 2, 100, "order"))


def test_ten_million_samples_need_no_memory() -> None:
    sharded = ShardedOrder((10_000,) * 1000, 1)
    whole = ShardedOrder((10_000_000,), 1)
    tracemalloc.start()
    for order in (sharded, whole):
        found = order.indices(3, np.arange(7_654_321, 7_654_321 + 4096))
        assert len(np.unique(found)) == 4096
        assert found.min() >= 0
        assert found.max() < 10_000_000
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()


def test_replacements_are_of_the_same_stream_at_first_and_of_anything_in_the_end() -> None:
    order = ShardedOrder((100,) * 20, 5, streams=4, buffer=200)
    found = epoch_of(order, 0)
    for position in (0, 777, 1999):
        near = [order.replacement(0, position, attempt) for attempt in range(10)]
        assert near == [order.replacement(0, position, attempt) for attempt in range(10)]
        block = position // 200
        window = set(found[200 * block : 200 * block + 200].tolist())
        assert set(near) <= window
        stream = {found.tolist().index(sample) for sample in near}
        assert len({sample // 100 for sample in near}) <= 2  # one stream: a shard, or a seam
        assert len(stream) > 3
        later = [order.replacement(0, position, attempt) for attempt in range(10, 50)]
        assert len({sample // 100 for sample in later}) in range(2, 7)
        last = [order.replacement(0, position, attempt) for attempt in range(50, 100)]
        assert len({sample // 100 for sample in last}) > 10


def test_a_small_set_takes_replacements_from_all_of_it() -> None:
    order = ShardedOrder((7,), 1)
    assert {order.replacement(0, 3, attempt) for attempt in range(50)} == set(range(7))


@pytest.mark.parametrize("length", [SORTED_LENGTH + 1, 131_072, 200_003])
def test_long_ranges_are_permuted_without_a_table(length: int) -> None:
    everything = permute(1, 0, np.arange(length), length, "x")
    assert np.array_equal(np.sort(everything), np.arange(length))
    again = permute(1, 0, np.array([5, length - 1]), length, "x")
    assert np.array_equal(again, everything[[5, length - 1]])
    steps = np.diff(everything)
    assert abs(np.corrcoef(everything[:-1], everything[1:])[0, 1]) < 0.02
    assert abs(np.mean(np.abs(steps)) / length - 1 / 3) < 0.01  # of independent uniform numbers
    fixed = (everything == np.arange(length)).sum()
    assert fixed < 12  # Poisson of mean 1
    assert (permute(2, 0, np.arange(1000), length, "x") != everything[:1000]).mean() > 0.99


def mixed(*weights: float) -> MixedOrder:
    parts = (
        ShardedOrder((3000, 1000), 1, 4, 500, "order of 0"),
        ShardedOrder((60_000,), 1, 4, 500, "order of 1"),
    )
    return MixedOrder(parts, weights, 1)


def test_a_mixture_keeps_its_shares_in_every_stretch() -> None:
    order = mixed(3, 1)
    assert order.num_samples == 64_000
    for epoch in range(2):
        found = epoch_of(order, epoch)
        shares = [(found[at : at + 8000] < 4000).mean() for at in range(0, 64_000, 8000)]
        assert np.allclose(shares, 0.75, atol=0.03)
    run = np.concatenate([epoch_of(order, epoch) for epoch in range(2)])
    whole = run[: 7 * MIX_BLOCK]
    times = np.bincount(whole, minlength=64_000)
    assert times[:4000].sum() == 0.75 * len(whole)
    assert set(times[:4000].tolist()) == {21, 22}  # epochs of its own, one after the other
    assert set(times[4000:].tolist()) == {0, 1}


def test_a_mixture_is_found_from_any_place() -> None:
    order = mixed(1, 5)
    positions = np.array([63_999, 3, 20_000])
    assert np.array_equal(order.indices(4, positions), epoch_of(order, 4)[positions])
    sample = order.indices(4, np.array([17]))[0]
    for attempt in range(60):
        assert (order.replacement(4, 17, attempt) < 4000) == (sample < 4000)


def test_weights_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a weight for each of 2 sources, got 1"):
        mixed(1)
    with pytest.raises(ConfigError, match=r"weight 1e-05 of source 1 is too small"):
        mixed(1e-5, 1)

from __future__ import annotations

import pickle

import pytest
from clip_eval.data.lru_cache import LRUCache

made: list[int] = []


def make(key: int) -> bytes:
    made.append(key)
    return bytes(key)


@pytest.fixture(autouse=True)
def forget() -> None:
    made.clear()


def test_the_least_recently_used_value_goes_first() -> None:
    cache = LRUCache(make, 2)
    assert [len(cache.get(key)) for key in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2]
    assert len(cache) == 2


def test_sizes_are_counted_and_the_last_value_is_kept_whatever_its_size() -> None:
    cache = LRUCache(make, 10, len)
    for key in (4, 5, 100, 100, 4, 6):
        cache.get(key)
    assert made == [4, 5, 100, 4, 6]
    assert len(cache) == 2


def test_without_limit_nothing_goes() -> None:
    cache = LRUCache(make, None, len)
    for key in (*range(50), *range(50)):
        cache.get(key)
    assert len(made) == len(cache) == 50


def test_a_copy_in_another_process_starts_empty() -> None:
    cache = LRUCache(make, 3)
    cache.get(2)
    again = pickle.loads(pickle.dumps(cache))
    assert (len(cache), len(again)) == (1, 0)
    assert again.get(2) == bytes(2)
    assert made == [2, 2]
    cache.clear()
    assert len(cache) == 0

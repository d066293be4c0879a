"""Values that are made when asked for, of which the most recently used are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _one(value: object) -> int:
    return 1


class LRUCache(Generic[K, V]):
    """At most `capacity` values (or what `size` counts of them); pickles without its values.

    The value that was asked for last is kept whatever its size.

    Args:
        make: The value of a key.
        capacity: Largest sum of sizes; None for no limit.
        size: Size of a value; 1 by default, so that values are counted.
    """

    def __init__(
        self, make: Callable[[K], V], capacity: int | None, size: Callable[[V], int] = _one
    ) -> None:
        self._make, self._capacity, self._size = make, capacity, size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._used = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_values": OrderedDict(), "_used": 0}

    def __len__(self) -> int:
        """Number of values that are kept."""
        return len(self._values)

    def clear(self) -> None:
        """Drop every value."""
        self._values.clear()
        self._used = 0

    def get(self, key: K) -> V:
        """The value of a key, made now if it is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = self._make(key)
        self._used += self._size(value)
        while self._capacity is not None and self._used > self._capacity and len(self._values) > 1:
            _, dropped = self._values.popitem(last=False)
            self._used -= self._size(dropped)
        return value

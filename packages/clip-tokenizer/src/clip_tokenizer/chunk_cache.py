"""A bounded cache of chunks, the pieces of a text between white space.

No word of CLIP's pattern spans white space, so the ids of a text are the ids of its chunks one
after the other, and a chunk's ids can be cached as bytes: a batch is then one `bytes.join` over one
`map`, without a Python statement per word.
"""

from __future__ import annotations

from collections.abc import Callable

LONGEST_KEPT = 64
"""Number of letters of the longest chunk that is cached; longer ones seldom occur twice."""


class ChunkCache(dict[str, bytes]):
    """`cache[chunk]` is the packed ids of a chunk, computed when it is first looked up.

    It has two generations: when the young one is full it becomes the old one, and a chunk that is
    found there moves to the young one. So chunks in use stay, and there are never more than
    `2 * capacity`.

    Args:
        encode: Computes the packed ids of a chunk that is in neither generation.
        capacity: Number of chunks in a generation.
    """

    def __init__(self, encode: Callable[[str], bytes], capacity: int) -> None:
        super().__init__()
        self._encode = encode
        self._capacity = capacity
        self._old: dict[str, bytes] = {}

    def __missing__(self, chunk: str) -> bytes:
        packed = self._old.pop(chunk, None)
        if packed is None:
            packed = self._encode(chunk)
        if len(chunk) <= LONGEST_KEPT:
            if len(self) >= self._capacity:
                self._old = dict(self)
                self.clear()
            self[chunk] = packed
        return packed

    @property
    def num_kept(self) -> int:
        """Number of chunks in both generations."""
        return len(self) + len(self._old)

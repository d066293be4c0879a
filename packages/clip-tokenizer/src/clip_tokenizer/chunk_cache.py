"""A bounded memory of chunks, the pieces of a text between white space.

No word of CLIP's pattern spans white space, so the ids of a text are the ids of its chunks one
after the other, and a chunk's ids can be kept as bytes: a batch is then one `bytes.join` over one
`map`, without a Python statement per word.
"""

from __future__ import annotations

from collections.abc import Callable

LONGEST_KEPT = 64
"""Letters up to which a chunk is kept; a longer one is rarely seen twice."""


class ChunkCache(dict[str, bytes]):
    """`cache[chunk]` is the packed ids of a chunk, computed at the first look.

    Two generations bound it: when the young one is full it becomes the old one, and a chunk found
    there moves back to the young one. So what is used stays, and memory never exceeds
    `2 * capacity` chunks.

    Args:
        encode: Gives the packed ids of a chunk that is in neither generation.
        capacity: Chunks in a generation.
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
        """Chunks held in both generations."""
        return len(self) + len(self._old)

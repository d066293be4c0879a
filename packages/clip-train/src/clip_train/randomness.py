"""Random numbers that are a pure function of what they are for.

Every number is keyed by (seed, epoch, position in the epoch, purpose), so it is the same in any
process, in any order of work, and after a resume.  SplitMix64 (Steele, Lea and Flood 2014) is the
mixing function; it is computed for a whole batch at once.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def keyed_bits(
    seed: int, epoch: int, positions: NDArray[np.int64], purpose: str, count: int = 1
) -> NDArray[np.uint64]:
    """Independent uniform 64-bit words, shape (len(positions), count)."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{purpose}".encode(), digest_size=8).digest()
    key = np.uint64(int.from_bytes(digest, "little"))
    streams = _mix(key ^ _mix(positions.astype(np.uint64)))  # (B,)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN  # (count,)
    return _mix(streams[:, None] + steps)


def keyed_uniform(
    seed: int, epoch: int, positions: NDArray[np.int64], purpose: str, count: int = 1
) -> NDArray[np.float64]:
    """Independent uniform numbers in [0, 1), shape (len(positions), count)."""
    bits = keyed_bits(seed, epoch, positions, purpose, count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def keyed_permutation(seed: int, epoch: int, length: int, purpose: str) -> NDArray[np.int64]:
    """A uniform permutation of range(length): the order of keyed words."""
    words = keyed_bits(seed, epoch, np.arange(length), purpose)[:, 0]
    return np.argsort(words, kind="stable")


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))

"""Random numbers that are a pure function of what they are for.

A number is keyed by (seed, epoch, position in the epoch, purpose), so it is the same in any
process, in any order of work, and after a resume. SplitMix64 (Steele, Lea and Flood 2014) is the
mixing function; it is computed for a whole batch at once. On the device a sample's 64-bit key is
the seed of `clip_models.pooling.hashed_uniform`, which `hashed_normal` turns into noise.
"""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
import torch
from clip_models.pooling import hashed_uniform
from numpy.typing import NDArray
from torch import Tensor

SORTED_LENGTH = 65536  # up to here a permutation is made whole
FEISTEL_ROUNDS = 8

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


def as_float32(uniform: NDArray[np.float64]) -> NDArray[np.float32]:
    """Numbers in [0, 1) rounded to float32, where those nearest to 1 would become 1."""
    return np.minimum(uniform.astype(np.float32), np.nextafter(np.float32(1), np.float32(0)))


def hashed_normal(keys: Tensor, count: int, *, start: int = 0) -> Tensor:
    """Standard normal numbers, float32 (B, count), by Box and Muller (1958).

    A row is a function of its key alone and does not depend on the batch.

    Args:
        keys: int64 (B,).
        count: Numbers of each key.
        start: The first uniform number to use; numbers `start` to
            `start + 2 * ceil(count / 2) - 1` of each key are used.
    """
    half = (count + 1) // 2
    radius, angle = hashed_uniform(keys, 2 * half, start=start).chunk(2, dim=1)  # (B, half) each
    radius = (-2 * radius.log()).sqrt()
    angle = angle * (2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


def keyed_permutation(seed: int, epoch: int, length: int, purpose: str) -> NDArray[np.int64]:
    """A uniform permutation of range(length): the order of keyed words."""
    words = keyed_bits(seed, epoch, np.arange(length), purpose)[:, 0]
    return np.argsort(words, kind="stable")


_cached_permutation = functools.lru_cache(maxsize=16)(keyed_permutation)


def permute(
    seed: int, epoch: int, positions: NDArray[np.int64], length: int, purpose: str
) -> NDArray[np.int64]:
    """Where a permutation of range(length) sends positions (P,), without making all of it.

    Short ranges are permuted uniformly, as by `keyed_permutation`. Long ones go through a Feistel
    network over the next power of two, walked until it falls into the range (Black and Rogaway
    2002): still each number once, in constant memory.
    """
    if length <= SORTED_LENGTH:
        return _cached_permutation(seed, epoch, length, purpose)[positions]
    bits = (length - 1).bit_length()
    keys = keyed_bits(seed, epoch, np.arange(FEISTEL_ROUNDS), purpose)[:, 0]
    words = _feistel(positions.astype(np.uint64), bits, keys)
    while (outside := words >= length).any():
        words[outside] = _feistel(words[outside], bits, keys)
    return words.astype(np.int64)


def _feistel(words: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of all words of `bits` bits; the halves change places after each round."""
    low = bits // 2
    for key in keys:
        high = bits - low
        left, right = words >> np.uint64(low), words & np.uint64((1 << low) - 1)
        left = left ^ (_mix(key ^ right) >> np.uint64(64 - high))
        words = (right << np.uint64(high)) | left
        low = high
    return words


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))

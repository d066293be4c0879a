"""A share of the training data that is kept for validation. N samples."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from clip_eval.data import Sample, Source
from clip_models import ConfigError
from numpy.typing import NDArray

from clip_train.data.mixing import MixedSource
from clip_train.randomness import keyed_uniform

NAME = "holdout"


class SelectedSource(Source):
    """Some samples of a source, in its order.

    Args:
        source: All samples.
        indices: (n,) int64, rising: the numbers of those that are in it.
        name: What to call them.
    """

    def __init__(self, source: Source, indices: NDArray[np.int64], name: str) -> None:
        self.source, self.indices = source, indices
        self.kind, self.name = source.kind, name
        self.split, self.splits = source.split, source.splits
        self.classnames, self.templates = source.classnames, source.templates
        self.working_set, self.exif_orientation = source.working_set, source.exif_orientation
        if source.shard_sizes is not None:
            ends = accumulate(source.shard_sizes, initial=0)
            places = [bisect_left(indices, end) for end in ends]
            self.shard_sizes = tuple(last - first for first, last in pairwise(places))

    def __len__(self) -> int:
        """n."""
        return len(self.indices)

    def read(self, index: int) -> Sample:
        """Sample number `index` of those that are in it.

        Raises:
            BadSample: It cannot be read.
        """
        return self.source.read(int(self.indices[index]))

    def label(self, index: int) -> int | None:
        """Its label."""
        return self.source.label(int(self.indices[index]))

    def place(self, index: int) -> str:
        """Where it is read from."""
        return self.source.place(int(self.indices[index]))


def split_holdout(source: Source, share: float) -> tuple[Source, Source]:
    """The samples to train on, and about a share of all for validation.

    Which they are is a function of each image's path, where the source knows it, and otherwise of
    the sample's number: the same in every run, and rows of one image file stay together. Each of
    several sources is split by itself, and its part of the mixture is what is left of it.

    Args:
        source: N samples.
        share: In (0, 1).

    Raises:
        ConfigError: There are too few samples for both sides.
    """
    parts: Sequence[Source] = source.parts if isinstance(source, MixedSource) else (source,)
    sides = [_split(part, share) for part in parts]
    train, held = (
        MixedSource(side) if isinstance(source, MixedSource) else side[0]
        for side in zip(*sides, strict=True)
    )
    held.name = NAME
    if not len(held) or not all(len(part) for part, _ in sides):
        few = "for validation" if not len(held) else "to train on"
        raise ConfigError(
            f"data.holdout {share:g} of the {len(source):,} samples of {source.name} leaves none "
            f"{few}; choose another share, or set it to 0 and name other data with data.val"
        )
    return train, held


def _split(source: Source, share: float) -> tuple[SelectedSource, SelectedSource]:
    paths: Sequence[str] | None = getattr(source, "paths", None)
    numbers = np.arange(len(source), dtype=np.int64)
    if paths is not None:
        names = (path.encode("utf-8", "surrogatepass") for path in paths)
        digests = (hashlib.blake2b(name, digest_size=8).digest() for name in names)
        numbers = np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)
    held = keyed_uniform(0, 0, numbers, NAME)[:, 0] < share
    train = SelectedSource(source, np.flatnonzero(~held), source.name)
    train.faults, train.warnings = source.faults, source.warnings
    return train, SelectedSource(source, np.flatnonzero(held), source.name)

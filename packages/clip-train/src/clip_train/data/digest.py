"""A digest of the training data, by which a resumed run knows that they are the same."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

from clip_eval.data import BadSample, Source

from clip_train.data.captions import digest_image
from clip_train.data.holdout import SelectedSource
from clip_train.data.sources import list_parts
from clip_train.data.streaming import ShardStream

VERSION = "2:"
SHARDS, PER_SHARD = 8, 8
_FIRST_SAMPLES = 8


def data_digest(source: Source) -> str:
    """A digest of what the samples are; it does not depend on where they lie.

    It is of the class names, the sizes of shards, all names, labels and captions that the source
    has in memory, and of some samples in full, evenly spaced. The samples of a stream cannot be
    addressed, so its digest is of the names of the shards.
    """
    if isinstance(source, ShardStream):
        return first_digest(source)
    digest = hashlib.blake2b(digest_size=16)
    for part in list_parts(source):
        facts = (len(part), part.classnames, part.shard_sizes)
        digest.update(json.dumps(facts, default=list).encode())
        for value in _listed(part):
            digest.update(f"{value}\n".encode("utf-8", "surrogatepass"))
        if part.exif_orientation:
            digest.update(b"EXIF orientation")
        for index in _sampled(part):
            digest.update(_describe_sample(part, index))
    return VERSION + digest.hexdigest()


def same_data(recorded: str, source: Source, digest: str) -> bool:
    """Whether a recorded digest, of this or of the first version, is that of a source.

    Args:
        recorded: As a checkpoint has it.
        source: The samples.
        digest: Their digest of this version.
    """
    return recorded == (digest if recorded.startswith(VERSION) else first_digest(source))


def first_digest(source: Source) -> str:
    """The digest in checkpoints of the first version: of the keys of eight samples."""
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(source, ShardStream):
        digest.update("\n".join(shard.rpartition("/")[2] for shard in source.shards).encode())
        return digest.hexdigest()
    for number in range(_FIRST_SAMPLES):
        index = number * (len(source) - 1) // (_FIRST_SAMPLES - 1)
        try:
            key = source.read(index).key
        except BadSample:
            key = "(unreadable)"
        digest.update(f"{index}:{key}\n".encode())
    return digest.hexdigest()


def _listed(source: Source) -> Iterator[Any]:
    """All names, labels and captions that the source has in memory."""
    base, chosen = source, None
    if isinstance(source, SelectedSource):
        base, chosen = source.source, source.indices
    for name in ("paths", "labels", "targets", "captions"):
        values = getattr(base, name, ())
        yield from values if chosen is None or not len(values) else (values[n] for n in chosen)


def _sampled(source: Source) -> Iterator[int]:
    """Indices evenly spaced over the source, or over some of its shards, each of which costs."""
    sizes = source.shard_sizes or ()
    if len(sizes) <= SHARDS:
        yield from _spread(0, len(source), SHARDS * PER_SHARD)
        return
    starts = list(itertools.accumulate(sizes, initial=0))
    for shard in _spread(0, len(sizes), SHARDS):
        yield from _spread(starts[shard], sizes[shard], PER_SHARD)


def _spread(start: int, length: int, count: int) -> Iterator[int]:
    """Up to `count` different numbers from `start` to the last of `length`."""
    last = length - 1
    steps = {start + number * last // max(1, count - 1) for number in range(count)}
    yield from sorted(steps) if length else ()


def _describe_sample(source: Source, index: int) -> bytes:
    try:
        sample = source.read(index)
    except BadSample:
        return f"{index}:(unreadable)\n".encode()
    facts: tuple[Any, ...] = (index, sample.key, sample.label, sample.targets, sample.captions)
    return json.dumps(facts).encode() + digest_image(sample.image)

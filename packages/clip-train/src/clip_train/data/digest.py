"""A digest of a data source, to check that a run is resumed with the same data."""

from __future__ import annotations

import hashlib

from clip_eval.data import BadSample, Source

from clip_train.data.streaming import ShardStream

SAMPLES = 8


def data_digest(source: Source) -> str:
    """A digest of the keys of some samples, evenly spaced; it does not depend on their location.

    The samples of a stream cannot be addressed, so its digest is of the names of the shards.
    """
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(source, ShardStream):
        digest.update("\n".join(shard.rpartition("/")[2] for shard in source.shards).encode())
        return digest.hexdigest()
    for number in range(SAMPLES):
        index = number * (len(source) - 1) // (SAMPLES - 1)
        try:
            key = source.read(index).key
        except BadSample:
            key = "(unreadable)"
        digest.update(f"{index}:{key}\n".encode())
    return digest.hexdigest()

"""A fingerprint of a source, to tell whether a run goes on with the data that it began with."""

from __future__ import annotations

import hashlib

from clip_eval.data import BadSample, Source

from clip_train.data.streaming import ShardStream

SAMPLES = 8


def data_digest(source: Source) -> str:
    """A digest of the keys of some samples, evenly spread; it does not depend on where they are.

    Of a stream, whose samples have no numbers, it is one of the names of the shards.
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

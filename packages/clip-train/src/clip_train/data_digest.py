"""A fingerprint of a source, to tell whether a run goes on with the data that it began with."""

from __future__ import annotations

import hashlib

from clip_eval import BadSample, Source

SAMPLES = 8


def data_digest(source: Source) -> str:
    """A digest of the keys of some samples, evenly spread; it does not depend on where they are."""
    digest = hashlib.blake2b(digest_size=8)
    for number in range(SAMPLES):
        index = number * (len(source) - 1) // (SAMPLES - 1)
        try:
            key = source.read(index).key
        except BadSample:
            key = "(unreadable)"
        digest.update(f"{index}:{key}\n".encode())
    return digest.hexdigest()

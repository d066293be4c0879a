"""Equal images and captions in the first batch of a run, and what its loss makes of them."""

from __future__ import annotations

import warnings

import torch

from clip_train.config.training import LossConfig
from clip_train.data.batches import Batch
from clip_train.distributed.protocol import Backend
from clip_train.objectives.candidates import hash_tokens
from clip_train.objectives.repeats import PairCounts, count_pairs


def count_repeats(batch: Batch, backend: Backend) -> PairCounts:
    """Count the pairs of the whole batch, of which each rank has a part; all ranks call it."""
    captions = hash_tokens(batch.tokens)[batch.caption_of]
    both = torch.cat([batch.image_marks, captions], dim=1)  # (n, 4)
    counts = torch.cat(backend.all_gather(torch.tensor([len(both)]), [1] * backend.world_size))
    every = torch.cat(backend.all_gather(both, counts.tolist()))  # (N, 4)
    return count_pairs(every[:, :2], every[:, 2:])


def describe_repeats(counts: PairCounts) -> str:
    """How many images and captions of a batch are repeats; empty if none is."""
    parts = [
        f"{number:,} {what}"
        for number, what in (
            (counts.repeated_images, "images"),
            (counts.repeated_captions, "captions"),
        )
        if number
    ]
    return f"{' and '.join(parts)} of {counts.num_pairs:,} pairs are repeats" if parts else ""


def warn_of_repeats(loss: LossConfig, counts: PairCounts) -> None:
    """Say that a loss contrasts equal images or captions with each other, if it does."""
    found = describe_repeats(counts)
    if found and loss.kind in ("infonce", "sigmoid"):
        warnings.warn(
            f"in the first batch {found}, and loss.kind {loss.kind!r} takes only a pair itself "
            "for positive; with 'multi_positive' equal images and captions are positives",
            stacklevel=2,
        )

"""What is said before the first step: repeats and cut captions of the first batch, the schedule."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from clip_train.config.training import LossConfig
from clip_train.data.batches import Batch
from clip_train.distributed.protocol import Backend
from clip_train.engine.data_components import DataComponents
from clip_train.objectives.candidates import hash_tokens
from clip_train.objectives.repeats import PairCounts, collapsed_loss, count_pairs, least_loss
from clip_train.optim.schedule import check_schedule


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


def check_first_batch(batch: Batch, data: DataComponents, backend: Backend) -> dict[str, Any]:
    """Warn of what is odd about the first batch and the schedule; all ranks call it.

    Returns:
        The least loss that the batch allows, that of features which are all alike, and its repeats.
    """
    config, counts = data.config, count_repeats(batch, backend)
    cut = count_cut(batch, data, backend)
    if backend.rank == 0:
        warn_of_repeats(config.loss, counts)
        for text in check_schedule(data.optim, data.total_steps, config.train.batch_size):
            warnings.warn(text, stacklevel=3)
        if cut and config.tokenizer.reduction == "truncate":
            warnings.warn(
                f"captions of the first batch are cut, {cut:,} of {counts.num_pairs:,}, to the "
                f"{data.tokenizer.context_length} tokens that the model reads; raise "
                "model.text.context_length, or choose tokenizer.reduction",
                stacklevel=3,
            )
    least, collapsed = (f(config.loss, counts) for f in (least_loss, collapsed_loss))
    return {"floor": least, "collapsed": collapsed, **counts.summary()}


def count_cut(batch: Batch, data: DataComponents, backend: Backend) -> int:
    """Pairs of the whole batch whose caption is longer than the context; all ranks call it."""
    lengths = torch.as_tensor(data.tokenizer.lengths(batch.captions))
    own = (lengths > data.tokenizer.context_length)[batch.caption_of].sum()[None]
    return int(torch.cat(backend.all_gather(own, [1] * backend.world_size)).sum())

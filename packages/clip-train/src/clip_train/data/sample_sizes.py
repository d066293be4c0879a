"""Sizes of all samples of a source, read once before training: pixels and tokens of captions."""

from __future__ import annotations

import numpy as np
from clip_eval.data import BadSample, Source, read_image_size
from clip_tokenizer import Tokenizer

from clip_train.logs.progress import progress_bar
from clip_train.plan.token_batches import SampleSizes

CAPTIONS_AT_ONCE = 4096


def read_sample_sizes(source: Source, tokenizer: Tokenizer, *, progress: bool) -> SampleSizes:
    """Width and height by the images' headers, which decodes none, and tokens of the captions.

    A sample that cannot be read has no size and no caption; another one will stand in for it.
    """
    pixels = np.zeros((len(source), 2), dtype=np.int64)
    tokens = np.zeros(len(source))
    waiting: list[tuple[int, tuple[str, ...]]] = []
    for index in progress_bar(range(len(source)), "sizes", unit="img", show=progress):
        try:
            sample = source.read(index)
            pixels[index] = read_image_size(sample.image, exif_orientation=source.exif_orientation)
        except BadSample:
            continue
        if sample.captions:
            waiting.append((index, sample.captions))
        if len(waiting) >= CAPTIONS_AT_ONCE:
            _count(waiting, tokenizer, tokens)
            waiting = []
    _count(waiting, tokenizer, tokens)
    return SampleSizes(pixels, tokens)


def _count(
    samples: list[tuple[int, tuple[str, ...]]], tokenizer: Tokenizer, tokens: np.ndarray
) -> None:
    """Store the mean tokens of each sample's captions, as far as the context holds them."""
    if not samples:
        return
    distinct = list(dict.fromkeys(text for _, captions in samples for text in captions))
    lengths = np.minimum(np.asarray(tokenizer.lengths(distinct)), tokenizer.context_length)
    length_of = dict(zip(distinct, lengths.tolist(), strict=True))
    for index, captions in samples:
        tokens[index] = sum(length_of[text] for text in captions) / len(captions)

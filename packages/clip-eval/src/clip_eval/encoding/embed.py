"""Embedding the images of a source with one or more models.

Legend: B batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from clip_eval.data.samples import Source
from clip_eval.encoding.batches import ImageBatch, LoaderConfig, iter_batches
from clip_eval.encoding.encoder import Encoder
from clip_eval.models.protocols import evaluation_mode


def group_by_preprocessing(encoders: Sequence[Encoder]) -> list[list[int]]:
    """Group the positions of encoders that have the same preprocessing."""
    groups: dict[str, list[int]] = {}
    for position, encoder in enumerate(encoders):
        groups.setdefault(encoder.preprocess_key, []).append(position)
    return list(groups.values())


def embed_images(
    encoders: Sequence[Encoder],
    source: Source,
    loader: LoaderConfig,
    *,
    indices: Sequence[int] | None = None,
) -> Generator[tuple[ImageBatch, list[Tensor]], None, None]:
    """Yield batches with the features (B, D) of each encoder, float32 on its device.

    Each image is read once, and decoded once unless its embedding is in the cache of all encoders.

    Args:
        encoders: Models that have the same preprocessing.
        source: The images.
        loader: How the source is read.
        indices: Which samples; all if None.
    """
    stores = [encoder.image_store for encoder in encoders]
    known: frozenset[bytes] = frozenset()
    if all(store is not None for store in stores):
        known = frozenset.intersection(*(store.digests() for store in stores if store is not None))
    batches = iter_batches(source, encoders[0].preprocess, loader, indices=indices, known=known)
    total = len(source) if indices is None else len(indices)
    with ExitStack() as stack:
        advance = stack.enter_context(_progress(total, show=loader.progress and loader.rank == 0))
        for encoder in encoders:
            stack.enter_context(evaluation_mode(encoder.model))
        stack.enter_context(closing(batches))  # which ends the workers
        try:
            for batch in batches:
                yield batch, [_features(encoder, batch) for encoder in encoders]
                advance((len(batch.samples) + len(batch.skipped)) * loader.world_size)
        finally:
            for encoder in encoders:
                encoder.flush()


@contextmanager
def _progress(total: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yield what advances it.

    The rate and the time left are those after the first batch, in which workers start and every
    image is waited for.
    """
    bar = tqdm(total=total, unit="img", desc="embedding", disable=not show, leave=False)

    def advance(count: int) -> None:
        nonlocal bar
        if not show or bar.initial:
            bar.update(count)
            return
        bar.close()
        bar = tqdm(total=total, unit="img", desc="embedding", initial=count)

    try:
        yield advance
    finally:
        bar.close()


def _features(encoder: Encoder, batch: ImageBatch) -> Tensor:
    """Take the features of a batch from the cache, and compute the missing ones; (B, D)."""
    digests = [sample.digest for sample in batch.samples]
    if not digests:
        return torch.empty(0, 0, device=encoder.device)
    store = encoder.image_store
    if store is None:
        return encoder.encode_images(batch.images)
    wanted = [n for n, row in enumerate(batch.rows) if digests[row] not in store]
    if not wanted:
        return store.get(digests).to(encoder.device)
    rows = [batch.rows[n] for n in wanted]
    computed = encoder.encode_images(batch.images[wanted])  # (len(rows), D)
    store.add([digests[row] for row in rows], computed)
    features = torch.empty(len(digests), computed.shape[1], device=encoder.device)
    features[rows] = computed
    others = sorted(set(range(len(digests))) - set(rows))
    if others:
        features[others] = store.get([digests[row] for row in others]).to(encoder.device)
    return features

"""Batches of decoded images from a source, in order, with what had to be skipped.

Legend: B batch, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clip_eval.classifier import ImagePreprocess
from clip_eval.faults import BadSample
from clip_eval.images import decode_image
from clip_eval.results import Skipped
from clip_eval.samples import Source


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images that could be decoded, and samples that could not.

    Attributes:
        images: uint8 (B, 3, H, W); B is 0 if nothing could be decoded.
        labels: Label of each image, None where the source has none.
        keys: Name of each image.
        indices: Position of each image in the source.
        skipped: The other samples of the batch.
    """

    images: Tensor
    labels: tuple[int | None, ...]
    keys: tuple[str, ...]
    indices: tuple[int, ...]
    skipped: tuple[Skipped, ...]


Item = tuple[int, str, int | None, Tensor | Skipped]


def iter_batches(
    source: Source,
    preprocess: ImagePreprocess,
    *,
    batch_size: int,
    workers: int = 0,
    indices: Sequence[int] | None = None,
) -> Iterator[ImageBatch]:
    """Batches in the order of the source; the global random state is left alone.

    Args:
        source: Where samples come from.
        preprocess: Applied to each RGB image.
        batch_size: Samples per batch; a batch with skipped samples holds fewer images.
        workers: Processes that read and decode; 0 does it here.
        indices: Which samples; all if None.
    """
    dataset = _DecodedSamples(
        source, preprocess, range(len(source)) if indices is None else indices
    )
    yield from DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(0),  # else the loader draws from the global one
    )


class _DecodedSamples(Dataset[Item]):
    def __init__(self, source: Source, preprocess: ImagePreprocess, indices: Sequence[int]) -> None:
        self.source, self.preprocess, self.indices = source, preprocess, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Item:
        index = self.indices[position]
        key = f"sample {index}"
        try:
            sample = self.source.read(index)
            key = sample.key
            image = decode_image(sample.image)
        except BadSample as error:
            key = error.key or key
            return index, key, None, Skipped(key=key, reason=error.reason, detail=error.detail)
        return index, key, sample.label, self.preprocess(image)


def _collate(items: list[Item]) -> ImageBatch:
    good = [(i, key, label, image) for i, key, label, image in items if isinstance(image, Tensor)]
    images = torch.stack([image for *_, image in good]) if good else torch.empty(0)
    return ImageBatch(
        images=images,
        labels=tuple(label for _, _, label, _ in good),
        keys=tuple(key for _, key, _, _ in good),
        indices=tuple(index for index, *_ in good),
        skipped=tuple(item[3] for item in items if isinstance(item[3], Skipped)),
    )

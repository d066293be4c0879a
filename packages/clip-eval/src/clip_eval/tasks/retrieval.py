"""Retrieval of images by captions, and of captions by images. B batch, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clip_eval.encoding.batches import ImageBatch
from clip_eval.encoding.encoder import Encoder
from clip_eval.errors import EvaluationError
from clip_eval.metrics.functions import grouped_share_interval, retrieval_ranks
from clip_eval.results.result import Result


class CaptionedImage(NamedTuple):
    """Features of an image (D,) and of its captions (number of captions, D).

    The digest is the hash of the image.
    """

    key: str
    digest: bytes
    captions: tuple[str, ...]
    image: NDArray[np.float32]
    texts: NDArray[np.float32]


class Retrieval:
    """Image and text retrieval.

    Rows of equal images are one image with all their captions: a table often has a row for each
    caption. Images are compared by content, not by name: rows of a table of encoded images share no
    name, and no query could rank one of two copies first.

    Args:
        encoder: Encodes the captions.
        ks: The values of k.
    """

    def __init__(self, encoder: Encoder, ks: Sequence[int] = (1, 5, 10)) -> None:
        self.encoder, self.ks = encoder, tuple(ks)

    def rows(self, batch: ImageBatch, features: Tensor) -> list[CaptionedImage]:
        """Return the features of the images and captions of a batch."""
        captions = [caption for sample in batch.samples for caption in sample.captions]
        width = features.shape[1]
        texts = np.zeros((0, width), dtype=np.float32)
        if captions:
            texts = self.encoder.encode_texts(captions).cpu().numpy()
        ends = np.cumsum([len(sample.captions) for sample in batch.samples])
        return [
            CaptionedImage(
                sample.key,
                sample.digest,
                sample.captions,
                image,
                texts[end - len(sample.captions) : end],
            )
            for sample, image, end in zip(
                batch.samples, features.cpu().numpy(), ends.tolist(), strict=True
            )
        ]

    def result(self, rows: Sequence[CaptionedImage]) -> Result:
        """Return recall at each k, in both directions."""
        n_rows, rows = len(rows), _merge(rows)
        owner = [n for n, row in enumerate(rows) for _ in row.captions]
        if rows and not owner:
            raise EvaluationError(f"{rows[0].key} and the other images have no captions")
        images: NDArray[np.float32] = np.zeros((0, 1), dtype=np.float32)
        texts = images
        if rows:
            images = np.stack([row.image for row in rows])
            texts = np.concatenate([row.texts for row in rows])
        texts_of: list[list[int]] = [[] for _ in rows]
        for text, image in enumerate(owner):
            texts_of[image].append(text)
        image_rank = retrieval_ranks(texts, images, [[image] for image in owner])
        text_rank = retrieval_ranks(images, texts, texts_of)
        by_text = self._recall("image", image_rank, len(rows), owner)
        by_image = self._recall("text", text_rank, len(owner), range(len(rows)))
        recall = {**by_text, **by_image}
        return Result(
            task="zeroshot_retrieval",
            metrics={name: value for name, (value, _) in recall.items()},
            n=len(rows),
            ci95={name: interval for name, (_, interval) in recall.items()},
            chance=min(1.0, self.ks[0] / len(rows)) if rows else None,
            warnings=tuple(_diagnose(n_rows, rows, images, texts)),
            records=(
                *_image_records(rows, text_rank),
                *_text_records(rows, owner, image_rank),
            ),
            details={"n_captions": len(owner)},
        )

    def _recall(
        self, direction: str, ranks: NDArray[np.int64], items: int, images: Sequence[int]
    ) -> dict[str, tuple[float | None, tuple[float, float] | None]]:
        """Compute recall at each k with its interval; `images` has the image of each query."""
        image_of = np.asarray(images, dtype=np.int64)
        found: dict[str, tuple[float | None, tuple[float, float] | None]] = {}
        for k in self.ks:
            value = interval = None
            if len(ranks) > 0 and k <= items:
                hits, queries = np.bincount(image_of, ranks < k), np.bincount(image_of)
                value, interval = float((ranks < k).mean()), grouped_share_interval(hits, queries)
            found[f"{direction}_retrieval_recall@{k}"] = value, interval
        return found


def _merge(rows: Sequence[CaptionedImage]) -> list[CaptionedImage]:
    """Merge rows of equal images."""
    found: dict[bytes, list[CaptionedImage]] = {}
    for row in rows:
        found.setdefault(row.digest, []).append(row)
    return [
        same[0]._replace(
            captions=tuple(caption for row in same for caption in row.captions),
            texts=np.concatenate([row.texts for row in same]),
        )
        for same in found.values()
    ]


def _diagnose(
    n_rows: int,
    rows: Sequence[CaptionedImage],
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
) -> list[str]:
    warnings = []
    if n_rows > len(rows):
        warnings.append(
            f"{n_rows} rows are of {len(rows)} images; the captions of equal images are merged"
        )
    bare = sum(not row.captions for row in rows)
    if not rows:
        warnings.append("no sample could be used, so there is no number")
    if bare:
        warnings.append(f"{bare} images have no caption; as queries they count as missed")
    invalid = int(
        (~np.isfinite(images).all(axis=1)).sum() + (~np.isfinite(texts).all(axis=1)).sum()
    )
    if invalid:
        warnings.append(f"{invalid} embeddings are not finite; they count as wrong")
    return warnings


def _image_records(
    rows: Sequence[CaptionedImage], ranks: NDArray[np.int64]
) -> list[dict[str, object]]:
    return [
        {"key": f"image {row.key}", "rank": int(rank), "correct": bool(rank == 0)}
        for row, rank in zip(rows, ranks, strict=True)
    ]


def _text_records(
    rows: Sequence[CaptionedImage], owner: Sequence[int], ranks: NDArray[np.int64]
) -> list[dict[str, object]]:
    texts = [(row.key, n, text) for row in rows for n, text in enumerate(row.captions)]
    return [
        {"key": f"text {key} {n}", "caption": text, "rank": int(rank), "correct": bool(rank == 0)}
        for (key, n, text), rank in zip(texts, ranks, strict=True)
    ]

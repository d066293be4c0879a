"""Retrieval of images by captions, and of captions by images.

Legend: B batch, I images, T captions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clip_eval.data.text_files import normal_form
from clip_eval.encoding.batches import ImageBatch
from clip_eval.encoding.encoder import Encoder
from clip_eval.errors import EvaluationError
from clip_eval.metrics.functions import grouped_share_interval
from clip_eval.metrics.ranking import Ranking, chance_recall, rank_items
from clip_eval.plurals import count_noun
from clip_eval.results.result import PairEmbeddings, Result

FOUND = 5
"""Number of found items that a record of a query names."""


class CaptionedImage(NamedTuple):
    """Features of an image (D,) and of its captions (number of captions, D).

    The digest is the hash of the image, the position that in the source.
    """

    key: str
    digest: bytes
    captions: tuple[str, ...]
    image: NDArray[np.float32]
    texts: NDArray[np.float32]
    position: int = 0


class Retrieval:
    """Image and text retrieval.

    Rows of equal images are one image with all their captions: a table often has a row for each
    caption. Images are compared by content, not by name: rows of a table of encoded images share no
    name, and no query could rank one of two copies first. Equal captions, letter case and blanks
    aside, are one caption too, which belongs to every image that has it.

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
                sample.index,
            )
            for sample, image, end in zip(
                batch.samples, features.cpu().numpy(), ends.tolist(), strict=True
            )
        ]

    def result(self, rows: Sequence[CaptionedImage]) -> Result:
        """Return recall at each k, in both directions."""
        pairs = _Pairs.of(rows)
        if rows and not pairs.captions:
            raise EvaluationError(f"the images have no captions, such as {rows[0].key}")
        image_ranking = rank_items(
            pairs.text_features, pairs.image_features, pairs.images_of, limit=FOUND
        )
        text_ranking = rank_items(
            pairs.image_features, pairs.text_features, pairs.captions_of, limit=FOUND
        )
        first_images = [images[0] for images in pairs.images_of]
        by_text = self._recall("image", image_ranking, len(pairs.images), first_images)
        by_image = self._recall("text", text_ranking, len(pairs.captions), range(len(pairs.images)))
        recall = {**by_text, **by_image}
        return Result(
            task="zeroshot_retrieval",
            metrics={name: value for name, (value, _) in recall.items()},
            n=len(pairs.images),
            ci95={name: interval for name, (_, interval) in recall.items()},
            chance=chance_recall(list(map(len, pairs.images_of)), len(pairs.images), self.ks[0]),
            warnings=(*_diagnose(pairs), *self.encoder.describe_cut(pairs.captions, "caption")),
            records=(*_image_records(pairs, text_ranking), *_text_records(pairs, image_ranking)),
            embeddings=pairs.embeddings(),
            details={"n_captions": len(pairs.captions)},
        )

    def _recall(
        self, direction: str, ranking: Ranking, items: int, images: Sequence[int]
    ) -> dict[str, tuple[float | None, tuple[float, float] | None]]:
        """Compute recall at each k with its interval; `images` has the image of each query."""
        image_of, ranks = np.asarray(images, dtype=np.int64), ranking.ranks
        found: dict[str, tuple[float | None, tuple[float, float] | None]] = {}
        for k in self.ks:
            value = interval = None
            if len(ranks) > 0 and k <= items:
                hits, queries = np.bincount(image_of, ranks < k), np.bincount(image_of)
                value, interval = float((ranks < k).mean()), grouped_share_interval(hits, queries)
            found[f"{direction}_retrieval_recall@{k}"] = value, interval
        return found


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Distinct images and distinct captions, and which belong together.

    Attributes:
        images: The first row of each distinct image (I).
        image_features: Their features (I, D).
        captions: The distinct captions, as first spelled (T).
        text_features: Their features (T, D).
        captions_of: The captions of each image.
        images_of: The images of each caption.
        n_rows: Number of rows.
        n_captions: Number of captions in all rows.
    """

    images: Sequence[CaptionedImage]
    image_features: NDArray[np.float32]
    captions: Sequence[str]
    text_features: NDArray[np.float32]
    captions_of: Sequence[Sequence[int]]
    images_of: Sequence[Sequence[int]]
    n_rows: int
    n_captions: int

    @classmethod
    def of(cls, rows: Sequence[CaptionedImage]) -> _Pairs:
        """Merge rows of equal images, and equal captions."""
        images: dict[bytes, CaptionedImage] = {}
        captions: dict[str, tuple[str, NDArray[np.float32]]] = {}
        places: dict[bytes, dict[int, None]] = {}
        numbers: dict[str, int] = {}
        for row in rows:
            images.setdefault(row.digest, row)
            own = places.setdefault(row.digest, {})
            for text, feature in zip(row.captions, row.texts, strict=True):
                same = " ".join(normal_form(text).casefold().split())
                captions.setdefault(same, (text, feature))
                own[numbers.setdefault(same, len(numbers))] = None
        images_of: list[list[int]] = [[] for _ in captions]
        for image, own in enumerate(places.values()):
            for caption in own:
                images_of[caption].append(image)
        none: NDArray[np.float32] = np.zeros((0, 1), dtype=np.float32)
        return cls(
            images=list(images.values()),
            image_features=np.stack([row.image for row in images.values()]) if images else none,
            captions=[text for text, _ in captions.values()],
            text_features=np.stack([row for _, row in captions.values()]) if captions else none,
            captions_of=[list(own) for own in places.values()],
            images_of=images_of,
            n_rows=len(rows),
            n_captions=sum(len(row.captions) for row in rows),
        )

    def embeddings(self) -> PairEmbeddings:
        """Return the features, and each pair of an image and a caption once."""
        edges = [(i, caption) for i, own in enumerate(self.captions_of) for caption in own]
        pairs = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
        return PairEmbeddings(self.image_features, self.text_features, pairs)


def _diagnose(pairs: _Pairs) -> Iterator[str]:
    """Yield what the reader of the numbers should know about repeats, gaps and ties."""
    n, images, texts = len(pairs.images), pairs.image_features, pairs.text_features
    if not n:
        yield "no sample could be used, so there is no number"
        return
    if pairs.n_rows > n:
        yield (
            f"{pairs.n_rows:,} rows are of {count_noun(n, 'image')}; the captions of equal images "
            "are merged"
        )
    repeats = pairs.n_captions - len(pairs.captions)
    if repeats:
        yield (
            f"{repeats:,} of {count_noun(pairs.n_captions, 'caption')} repeat another; equal "
            f"captions are one, so that there are {len(pairs.captions):,}, and each image with "
            "such a caption is right for it (CLIP_benchmark takes each row for the only right one)"
        )
    bare = sum(not own for own in pairs.captions_of)
    if bare:
        yield count_noun(
            bare,
            "image has no caption; as a query it counts as missed",
            "images have no caption; as queries they count as missed",
        )
    finite: list[NDArray[np.bool_]] = [
        np.atleast_1d(np.isfinite(table).all(axis=1)) for table in (images, texts)
    ]
    invalid = sum(int((~good).sum()) for good in finite)
    if invalid:
        yield count_noun(
            invalid,
            "embedding is not finite; it counts as wrong",
            "embeddings are not finite; they count as wrong",
        )
    for noun, table, own, good in (
        ("image", images, pairs.captions_of, finite[0]),
        ("caption", texts, pairs.images_of, finite[1]),
    ):
        tied = _count_ties(table, own, good)
        if tied:
            yield (
                f"{count_noun(tied, f'{noun} has', f'{noun}s have')} exactly the embedding of "
                f"another {noun} that belongs elsewhere; such ties count against the model"
            )


def _count_ties(
    table: NDArray[np.float32], owners: Sequence[Sequence[int]], good: NDArray[np.bool_]
) -> int:
    """Count the items whose features equal those of an item with other positives."""
    found: dict[bytes, list[tuple[int, ...]]] = {}
    for number in np.flatnonzero(good).tolist():
        found.setdefault(table[number].tobytes(), []).append(tuple(owners[number]))
    return sum(len(same) for same in found.values() if len(set(same)) > 1)


def _image_records(pairs: _Pairs, ranking: Ranking) -> Iterator[dict[str, Any]]:
    """Yield a record of each image as a query for captions."""
    for number, row in enumerate(pairs.images):
        own = pairs.captions_of[number]
        yield {
            "key": f"image {row.key}",
            "index": row.position,
            "image": row.key,
            "captions": [pairs.captions[caption] for caption in own],
            "rank": int(ranking.ranks[number]),
            "correct": bool(ranking.ranks[number] == 0),
            "found": [
                {"caption": pairs.captions[caption], "score": score, "correct": caption in own}
                for caption, score in _best(ranking, number)
            ],
        }


def _text_records(pairs: _Pairs, ranking: Ranking) -> Iterator[dict[str, Any]]:
    """Yield a record of each caption as a query for images."""
    named: dict[str, int] = {}
    for number, caption in enumerate(pairs.captions):
        own = pairs.images_of[number]
        first = pairs.images[own[0]]
        place = named[first.key] = named.get(first.key, -1) + 1
        yield {
            "key": f"text {first.key} {place}",
            "caption": caption,
            "images": [pairs.images[image].position for image in own],
            "rank": int(ranking.ranks[number]),
            "correct": bool(ranking.ranks[number] == 0),
            "found": [
                {
                    "image": pairs.images[image].key,
                    "index": pairs.images[image].position,
                    "score": score,
                    "correct": image in own,
                }
                for image, score in _best(ranking, number)
            ],
        }


def _best(ranking: Ranking, query: int) -> Iterator[tuple[int, float]]:
    """Yield the best items of a query with their scores, unless those are not finite."""
    pairs = zip(ranking.items[query].tolist(), ranking.scores[query].tolist(), strict=True)
    return ((item, round(score, 6)) for item, score in pairs if np.isfinite(score))

"""Search among embedded images: the nearest to words, or to another image.

Legend: N embeddings, Q queries, D width, K best.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clip_eval.data.faults import BadImage
from clip_eval.data.images import decode_image
from clip_eval.data.readers.image_files import ImageFiles
from clip_eval.data.samples import Source
from clip_eval.encoding.batches import LoaderConfig
from clip_eval.encoding.embedding_files import Embeddings, embed_source
from clip_eval.encoding.embedding_parts import read_embedding_file
from clip_eval.encoding.encoder import Encoder, make_encoder
from clip_eval.encoding.thumbnails import make_thumbnails
from clip_eval.errors import EvaluationError
from clip_eval.metrics.ranking import best_columns
from clip_eval.models.fingerprints import weights_fingerprint
from clip_eval.models.protocols import LoadedModel, evaluation_mode
from clip_eval.search.faiss_index import FaissIndex

ROWS_AT_ONCE = 65536
THUMBNAIL = 160


class Match(NamedTuple):
    """An image that was found.

    Attributes:
        key: Its name: the path of its file, as it was embedded.
        score: Cosine similarity to the query.
        number: Its number among the embeddings.
    """

    key: str
    score: float
    number: int


class ImageSearch:
    """Embedded images, and the model that embeds queries.

    `ImageSearch.open` reads a file of `clip-eval embed`, `ImageSearch.embed` embeds images now.

    Args:
        model: The model that made the embeddings.
        embeddings: Unit vectors (N, D) with their keys.
        index: An index of them on disk; None compares a query with all of them.
        device: Device of the model.

    Raises:
        EvaluationError: The embeddings are not of this model.
    """

    def __init__(
        self,
        model: LoadedModel,
        embeddings: Embeddings,
        *,
        index: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.encoder = make_encoder(model, device=device)
        self.embeddings = embeddings
        _check_model(self.encoder, embeddings)
        features = np.ascontiguousarray(embeddings.features)
        self._index = None if index is None else FaissIndex.open(Path(index), features)

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: LoadedModel,
        *,
        index: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> ImageSearch:
        """Open a file of `clip-eval embed`.

        Args:
            path: `FILE.npz` or `FILE.parquet`.
            model: The model that made the embeddings.
            index: File of an index by faiss, which is built where there is none yet: approximate,
                and fast for millions of images. None compares a query with all embeddings.
            device: Device of the model.

        Raises:
            EvaluationError: The file is damaged, or its embeddings are not of this model.
        """
        return cls(model, read_embedding_file(path), index=index, device=device)

    @classmethod
    def embed(
        cls,
        model: LoadedModel,
        images: Source | Sequence[str | Path],
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 256,
    ) -> ImageSearch:
        """Embed a source, or image files and folders with all images below them.

        Queries by an image are turned upright by EXIF where the source is (`exif_orientation`).

        Raises:
            EvaluationError: No image can be used.
            DataError: There is no image.
        """
        source = images if isinstance(images, Source) else ImageFiles(images, recursive=True)
        encoder = make_encoder(model, device=device, batch_size=batch_size)
        found = embed_images_of(encoder, source, LoaderConfig(batch_size=batch_size))
        return cls(model, found, device=device)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.embeddings.keys)

    def find(self, query: str | Path | Image.Image, *, top: int = 10) -> list[Match]:
        """Find the best images for words (a text), or for an image (its path, or Pillow's).

        Raises:
            BadImage: The image of the query cannot be decoded.
            OSError: Its file cannot be read.
        """
        return self.find_all([query], top=top)[0]

    def find_all(
        self, queries: Sequence[str | Path | Image.Image], *, top: int = 10
    ) -> list[list[Match]]:
        """Find the best images for each of several queries, as `find` does for one."""
        if top < 1:
            raise EvaluationError(f"top must be at least 1, got {top}")
        vectors = np.stack([self._embed(query) for query in queries])  # (Q, D)
        width = self.embeddings.features.shape[1]
        if vectors.shape[1] != width:
            raise EvaluationError(
                f"expected embeddings of {vectors.shape[1]} numbers, as the model makes them, got "
                f"embeddings of {width} numbers; name the model that made them"
            )
        limit = min(top, len(self))
        if self._index is None:
            items, scores = find_nearest(vectors, self.embeddings.features, limit)
        else:
            items, scores = self._index.search(vectors, limit)
        keys = self.embeddings.keys
        return [
            [Match(keys[i], score, i) for i, score in zip(*row, strict=True) if i >= 0]
            for row in zip(items.tolist(), scores.tolist(), strict=True)
        ]

    def _embed(self, query: str | Path | Image.Image) -> NDArray[np.float32]:
        """Embed a query as a unit vector (D,)."""
        with evaluation_mode(self.encoder.model):
            if isinstance(query, str):
                return self.encoder.encode_texts([query])[0].cpu().numpy()
            image = _decode(query, exif_orientation=self.embeddings.exif_orientation)
            pixels = self.encoder.preprocess(image)[None]
            return self.encoder.encode_images(pixels)[0].cpu().numpy()


def _decode(query: Path | Image.Image, *, exif_orientation: bool) -> Image.Image:
    if isinstance(query, Image.Image):
        return decode_image(query, exif_orientation=exif_orientation)
    try:
        return decode_image(query.read_bytes(), exif_orientation=exif_orientation)
    except BadImage as error:
        raise BadImage(error.reason, error.detail, str(query)) from None


def find_nearest(
    queries: NDArray[np.float32],
    features: NDArray[np.float32],
    limit: int,
    *,
    chunk: int = ROWS_AT_ONCE,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the features of highest dot product, exactly: their numbers and scores, (Q, K).

    Args:
        queries: (Q, D).
        features: (N, D).
        limit: K, at most N.
        chunk: Features at a time.
    """
    items = np.zeros((len(queries), 0), dtype=np.int64)
    scores = np.zeros((len(queries), 0), dtype=np.float32)
    for start in range(0, len(features), chunk):
        own = queries @ features[start : start + chunk].T  # (Q, chunk)
        best = best_columns(own, min(limit, own.shape[1]))
        items = np.concatenate([items, best + start], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(own, best, axis=1)], axis=1)
        kept = best_columns(scores, min(limit, scores.shape[1]))
        items = np.take_along_axis(items, kept, axis=1)
        scores = np.take_along_axis(scores, kept, axis=1)
    return items, scores


def embed_images_of(
    encoder: Encoder, source: Source, loader: LoaderConfig, *, thumbnail: int = 0
) -> Embeddings:
    """Embed the images of a source, with thumbnails of so many pixels and the model's hash."""
    found = embed_source(encoder, source, loader)
    pictures: tuple[bytes, ...] = ()
    if thumbnail:
        made = make_thumbnails(source, found.indices, thumbnail, progress=loader.progress)
        pictures = tuple(made)
    return found._replace(thumbnails=pictures, weights=weights_fingerprint(encoder.model))


def _check_model(encoder: Encoder, embeddings: Embeddings) -> None:
    """Refuse embeddings of another model: their scores would mean nothing."""
    made_by, own = embeddings.weights, weights_fingerprint(encoder.model)
    if made_by and made_by != own:
        raise EvaluationError(
            f"{encoder.name or 'the model'} has other weights than the model that made the "
            "embeddings; name that model, or embed the images again"
        )

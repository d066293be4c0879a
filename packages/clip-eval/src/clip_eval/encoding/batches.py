"""Batches of decoded images of a source, in order, with the samples that had to be skipped.

Legend: B batch, H and W pixels.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Container, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from clip_models import NativeImages
from clip_models.config import PreprocessConfig
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.images import decode_image
from clip_eval.data.samples import Sample, Source
from clip_eval.encoding.cache import digest_image, digest_parts
from clip_eval.encoding.workers import OrderedLoader, Reading
from clip_eval.errors import EvaluationError
from clip_eval.models.protocols import ImagePreprocess
from clip_eval.results.result import Skipped

BROADER_ERRORS = (DataError, EvaluationError, OSError, MemoryError)
"""Errors of a worker that are no fault of a sample; they end the reading with their message."""
SMALL_SOURCE = 2000
"""Number of samples below which starting workers costs more than it saves."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How a source is read.

    Attributes:
        batch_size: Images, and prompts, per forward pass.
        workers: Processes that read and decode; 0 does it in this process, None chooses by the
            size of the source.
        rank: Rank of this process among those that share the work.
        world_size: Number of those processes.
        progress: Show a progress bar.
    """

    batch_size: int = 256
    workers: int | None = 0
    rank: int = 0
    world_size: int = 1
    progress: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            EvaluationError: A value is out of range; the message names it.
        """
        if self.batch_size < 1:
            raise EvaluationError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.workers is not None and self.workers < 0:
            raise EvaluationError(f"workers must be at least 0, or None, got {self.workers}")
        if not 0 <= self.rank < self.world_size:
            raise EvaluationError(
                f"rank must be in [0, world_size), got {self.rank} of {self.world_size}"
            )

    def workers_for(self, size: int) -> int:
        """Return the number of worker processes for a source of `size` samples."""
        if self.workers is not None:
            return self.workers
        return 0 if size < SMALL_SOURCE else min(4, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class LoadedSample:
    """A sample without its image.

    Attributes:
        index: Position in the source.
        key: Name in the source.
        digest: Hash of the image, and of whether its EXIF turns it.
        label: Class; None where the source has none.
        targets: Classes, where a sample may have several.
        captions: Captions.
        content: Hash of all of these except the position.
    """

    index: int
    key: str
    digest: bytes
    label: int | None
    targets: tuple[int, ...] | None
    captions: tuple[str, ...]
    content: bytes


def read_sample(source: Source, index: int) -> tuple[LoadedSample, Sample]:
    """Read a sample: without its image and hashed, and with its image.

    Raises:
        BadSample: The sample cannot be read.
    """
    sample = source.read(index)
    digest = digest_image(sample.image)
    if source.exif_orientation:
        digest = digest_parts("EXIF orientation", digest)
    facts = (sample.key, str(sample.label), str(sample.targets), *sample.captions)
    loaded = LoadedSample(
        index=index,
        key=sample.key,
        digest=digest,
        label=sample.label,
        targets=sample.targets,
        captions=sample.captions,
        content=digest_parts(digest, *facts),
    )
    return loaded, sample


def hash_source(source: Source, indices: Sequence[int] | None = None) -> str:
    """Hash all samples of a source, in order, without decoding any."""
    found = []
    for index in range(len(source)) if indices is None else indices:
        try:
            found.append(read_sample(source, index)[0].content)
        except BadSample as error:
            found.append(hash_unreadable(error))
    return hash_contents(found, source.classnames)


def hash_unreadable(error: BadSample) -> bytes:
    """Return the hash that stands for a sample that cannot be read."""
    return digest_parts(error.key, error.reason)


def hash_contents(samples: Iterable[bytes], classnames: Sequence[str] | None) -> str:
    """Hash the contents of samples together with the class names they refer to."""
    return digest_parts(*(classnames or ()), b"", *samples).hex()


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """A batch: samples that can be used, and skipped ones.

    Attributes:
        number: Number of the batch in the source.
        samples: The usable samples.
        images: Preprocessed images (R, 3, H, W) of the `rows`, or the patches of images of their
            own shape; R is 0 if there is none.
        places: Position of each sample in the batch, counting skipped ones.
        rows: Positions in `samples` of the decoded images; the others are in the cache.
        skipped: The skipped samples.
        contents: Hash of each sample of the batch, skipped ones included.
    """

    number: int
    samples: tuple[LoadedSample, ...]
    images: Tensor | NativeImages
    places: tuple[int, ...]
    rows: tuple[int, ...]
    skipped: tuple[Skipped, ...]
    contents: tuple[bytes, ...]


class Item(NamedTuple):
    """One sample as a worker returns it."""

    content: bytes
    sample: LoadedSample | None
    image: Tensor | None
    skipped: Skipped | None


def iter_batches(
    source: Source,
    preprocess: ImagePreprocess,
    loader: LoaderConfig,
    *,
    indices: Sequence[int] | None = None,
    known: Container[bytes] = frozenset(),
) -> Generator[ImageBatch, None, None]:
    """Yield batches in the order of the source; the global random state is left alone.

    Each rank gets whole batches, every `world_size`-th one, so that what is computed together does
    not depend on the number of processes. A batch with skipped samples holds fewer images.

    Args:
        source: Where samples come from.
        preprocess: Applied to each RGB image.
        loader: Batch size, workers and rank.
        indices: Which samples; all if None.
        known: Digests of images that need not be decoded.
    """
    chosen = range(len(source)) if indices is None else indices
    size = loader.batch_size
    batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    own = range(loader.rank, len(batches), loader.world_size)
    workers = loader.workers_for(len(source))
    reading = Reading(workers)
    dataset = _DecodedSamples(source, preprocess, known, reading)
    ordered = OrderedLoader(reading, workers, source.place)
    patch_size = native_patch_size(preprocess)
    collate = functools.partial(_collate, patch_size=patch_size)
    found = ordered.load(dataset, [batches[number] for number in own], collate)
    with closing(found):
        for number, batch in zip(own, found, strict=True):
            if isinstance(batch, Exception):
                raise batch
            facts, pixels, grids = batch
            images = torch.from_numpy(pixels)
            yield ImageBatch(
                number=number, images=NativeImages(images, grids) if grids else images, **facts
            )


class _DecodedSamples(Dataset[Item | Exception]):
    """Decoded samples; an error that concerns more than one sample is an item too."""

    def __init__(
        self,
        source: Source,
        preprocess: ImagePreprocess,
        known: Container[bytes],
        reading: Reading,
    ) -> None:
        self.source, self.preprocess, self.known = source, preprocess, known
        self.reading = reading

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item | Exception:
        try:
            with self.reading.reading(index):
                return self._read(index)
        except BROADER_ERRORS as error:
            return error

    def _decode(self, sample: Sample) -> Image.Image:
        if self.source.exif_orientation:
            return decode_image(sample.image, exif_orientation=True)
        return decode_image(sample.image)

    def _read(self, index: int) -> Item:
        key, content = f"sample {index}", None
        try:
            loaded, sample = read_sample(self.source, index)
            key, content = loaded.key, loaded.content
            image = None
            if loaded.digest not in self.known:
                image = self.preprocess(self._decode(sample))
        except BadSample as error:
            skipped = Skipped(key=error.key or key, reason=error.reason, detail=error.detail)
            return Item(content or hash_unreadable(error), None, None, skipped)
        return Item(loaded.content, loaded, image, None)


def native_patch_size(preprocess: ImagePreprocess) -> int | None:
    """Return the side of the patches of images in their own shape; None for images of one shape."""
    config = getattr(preprocess, "config", None)
    return config.patch_size if isinstance(config, PreprocessConfig) else None


def _collate(
    items: Sequence[Item | Exception], *, patch_size: int | None
) -> tuple[dict[str, Any], NDArray[Any], tuple[tuple[int, int], ...]] | Exception:
    """Return the fields of a batch, its images as an array, and their grids, or an item's error.

    There are grids of images in their own shape only.
    """
    found: list[Item] = []
    for item in items:
        if isinstance(item, Exception):
            return item
        found.append(item)
    good = [(item.sample, item.image) for item in found if item.sample is not None]
    decoded = [(row, image) for row, (_, image) in enumerate(good) if image is not None]
    images, grids = torch.empty(0), tuple[tuple[int, int], ...]()
    if decoded and patch_size is not None:
        native = NativeImages.from_images([image for _, image in decoded], patch_size)
        images, grids = native.patches, native.grids
    elif decoded:
        images = torch.stack([image for _, image in decoded])
    images = images.float() if images.dtype == torch.bfloat16 else images  # NumPy has no bfloat16
    facts = {
        "samples": tuple(sample for sample, _ in good),
        "places": tuple(place for place, item in enumerate(found) if item.sample is not None),
        "rows": tuple(row for row, _ in decoded),
        "skipped": tuple(item.skipped for item in found if item.skipped is not None),
        "contents": tuple(item.content for item in found),
    }
    return facts, images.numpy(), grids

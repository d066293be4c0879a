"""Batches of a run: read, decode, caption and tokenise the samples that the plan names.

B images of this rank, S image side, U distinct captions, T text tokens.  `BatchReader[step]` is a
pure function of the step, so worker processes may compute steps in any order and a resume starts
at any step.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from clip_eval import BadSample, DataError, Sample, Source, decode_image
from clip_models import Preprocess
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from clip_train.augment import CROP_ATTEMPTS, crop_box
from clip_train.config import AugmentConfig, Config
from clip_train.objectives import number_captions
from clip_train.plan import SamplePlan
from clip_train.progress import progress_bar
from clip_train.randomness import keyed_uniform

MAX_REPLACEMENTS = 100


class TokenizerLike(Protocol):
    """What training needs of a tokenizer."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Ids (N, T) of the texts, end token kept, zero-padded."""


class SampleFault(NamedTuple):
    """A sample that could not be used and was replaced by another."""

    reason: str  # a short fixed word
    detail: str  # names the sample


class Batch(NamedTuple):
    """One step's input; pixels are not yet augmented on the device nor normalised."""

    step: int
    images: Tensor  # uint8 (B, 3, S, S)
    tokens: Tensor  # int64 (U, T)
    caption_of: Tensor  # int64 (B,) row of `tokens` of each image
    uniform: Tensor  # float32 (B, 3) random numbers for augmentation on the device
    keys: list[str]  # B
    faults: list[SampleFault]  # samples that were replaced
    epoch: int
    positions: Tensor  # int64 (B,) places in the epoch's order: with seed and epoch, the key of
    # everything random about a sample


class DecodedSource:
    """A source whose images are decoded once, at the model's size, and kept in memory."""

    def __init__(self, source: Source, preprocess: Preprocess, *, progress: bool) -> None:
        size = preprocess.config.size
        self.pixels = torch.empty(len(source), 3, size, size, dtype=torch.uint8)
        self.samples: list[Sample | BadSample] = []
        for index in progress_bar(range(len(source)), "decode", unit="img", show=progress):
            try:
                sample, image = _read_image(source, index)
            except BadSample as error:
                self.samples.append(error)
            else:
                self.pixels[index] = preprocess(image)
                self.samples.append(replace(sample, image=b""))

    def read(self, index: int) -> tuple[Sample, Tensor]:
        """The sample (without its file) and its pixels, uint8 (3, S, S)."""
        sample = self.samples[index]
        if isinstance(sample, BadSample):
            raise sample
        return sample, self.pixels[index]


class BatchReader(Dataset[Batch]):
    """`reader[step]` is this rank's part of the batch of that step.

    Rank r of W takes a contiguous stretch of the planned batch, so that the parts put together in
    the order of ranks are the batch of a single process.
    """

    def __init__(
        self,
        source: Source,
        plan: SamplePlan,
        config: Config,
        preprocess: Preprocess,
        tokenizer: TokenizerLike,
        *,
        rank: int = 0,
        world: int = 1,
        progress: bool = False,
    ) -> None:
        self.source = source
        self.rank = rank
        self.world = world
        self.plan = plan
        self.config = config
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.decoded = (
            DecodedSource(source, preprocess, progress=progress)
            if config.data.cache_images
            else None
        )

    def __getitem__(self, step: int) -> Batch:
        epoch, planned, indices = self.plan.batch(step)
        seed = self.config.train.seed
        share = rank_slice(len(planned), self.rank, self.world)
        positions, indices = planned[share], indices[share]  # (B,)
        crops = keyed_uniform(seed, epoch, positions, "crop", 4 * CROP_ATTEMPTS)  # (B, ·)
        of_batch = self.config.data.template_choice == "batch"
        choosers = np.full_like(positions, planned[0]) if of_batch else positions
        choice = keyed_uniform(seed, epoch, choosers, "caption")[:, 0]  # (B,)
        images, captions, keys, faults = [], [], [], list[SampleFault]()
        for row, position in enumerate(positions):
            sample, pixels = self._read(
                epoch, int(position), int(indices[row]), crops[row].tolist(), faults
            )
            images.append(pixels)
            captions.append(sample.captions[int(choice[row] * len(sample.captions))])
            keys.append(sample.key)
        distinct, caption_of = number_captions(
            captions, merge_equal=self.config.loss.kind == "multi_positive"
        )
        uniform = torch.from_numpy(keyed_uniform(seed, epoch, positions, "shift", 3)).float()
        tokens = self.tokenizer(distinct)
        return Batch(
            step=step,
            images=torch.stack(images),
            tokens=tokens,
            caption_of=caption_of,
            uniform=uniform,
            keys=keys,
            faults=faults,
            epoch=epoch,
            positions=torch.from_numpy(positions),
        )

    def _read(
        self,
        epoch: int,
        position: int,
        index: int,
        uniform: Sequence[float],
        faults: list[SampleFault],
    ) -> tuple[Sample, Tensor]:
        """The planned sample, or the first readable one of its fixed list of replacements."""
        for attempt in range(MAX_REPLACEMENTS):
            try:
                return self._decode(index, uniform)
            except BadSample as error:
                faults.append(SampleFault(error.reason, str(error)))
            index = self.plan.replacement(epoch, position, attempt)
        raise DataError(
            f"{self.source.name}: {MAX_REPLACEMENTS} samples in a row could not be used, "
            f"such as {faults[-1].detail}"
        )

    def _decode(self, index: int, uniform: Sequence[float]) -> tuple[Sample, Tensor]:
        if self.decoded is not None:
            sample, pixels = self.decoded.read(index)
        else:
            sample, image = _read_image(self.source, index)
            pixels = _crop_or_fit(image, self.preprocess, self.config.augment, uniform)
        if not sample.captions:
            raise BadSample("no-caption", "neither a caption nor a class", sample.key)
        return sample, pixels

    def batches(self, first: int, stop: int, *, pin_memory: bool) -> Iterator[Batch]:
        """The batches of steps first … stop - 1, in order, read ahead by worker processes."""
        workers = self.config.data.workers
        loader = DataLoader(
            _Guarded(self),
            sampler=range(first, stop),
            batch_size=None,
            num_workers=workers,
            collate_fn=_identity,
            worker_init_fn=_ignore_interrupts,
            pin_memory=pin_memory,
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class _Guarded(Dataset["Batch | DataError"]):
    """A reader that returns an error of the data, so that no worker's traceback surrounds it."""

    def __init__(self, reader: BatchReader) -> None:
        self.reader = reader

    def __getitem__(self, step: int) -> Batch | DataError:
        try:
            return self.reader[step]
        except DataError as error:
            return error


def rank_slice(length: int, rank: int, world: int) -> slice:
    """The part of a batch of `length` that belongs to a rank; lengths differ by at most one."""
    return slice(length * rank // world, length * (rank + 1) // world)


def _read_image(source: Source, index: int) -> tuple[Sample, Image.Image]:
    """A sample and its RGB image; every error names the sample."""
    sample = source.read(index)
    try:
        return sample, decode_image(sample.image)
    except BadSample as error:
        raise BadSample(error.reason, error.detail, sample.key) from None


def _crop_or_fit(
    image: Image.Image, preprocess: Preprocess, config: AugmentConfig, uniform: Sequence[float]
) -> Tensor:
    """Pixels uint8 (3, S, S): a random crop of the image, or the evaluation transform."""
    if config.kind != "random_resized_crop":
        return preprocess(image)
    box = crop_box(image.width, image.height, uniform, config.scale)
    size = preprocess.config.size
    part = image.resize(
        (size, size),
        getattr(Image.Resampling, preprocess.config.interpolation.upper()),
        box=(box.left, box.top, box.left + box.width, box.top + box.height),
    )
    return transforms.pil_to_tensor(part)


def _identity(batch: Any) -> Any:
    return batch


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the training process alone decides what to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

"""Batches of a run: read, decode, caption and tokenize the samples that the plan names.

B images of this rank, S image side, U distinct captions, T text tokens. `BatchReader[step]` is a
pure function of the step, so worker processes may compute steps in any order and a resume starts
at any step.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from clip_eval.data import BadSample, DataError, Sample, Source
from clip_models import ConfigError, NativeImages, Preprocess
from clip_tokenizer import Tokenizer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from clip_train.augment.color_jitter import NUMBERS, changes_colors, jitter_colors
from clip_train.augment.geometry import CROP_ATTEMPTS
from clip_train.config.run import Config
from clip_train.data.captions import digest_image, mark_images, number_captions
from clip_train.data.decoding import NativeSize, PixelReader
from clip_train.data.loading import BatchLoader
from clip_train.data.streaming import MAX_FAULTS_IN_A_ROW, SampleStream, ShardStream
from clip_train.data.watchdog import WorkerWatchdog
from clip_train.logs.progress import progress_bar
from clip_train.plan.sample_plan import SamplePlan
from clip_train.plan.token_batches import TokenBatches, share_work
from clip_train.randomness import as_float32, keyed_uniform

MAX_REPLACEMENTS = 100


class SampleFault(NamedTuple):
    """A sample that could not be used and was replaced by another."""

    reason: str  # a short fixed word
    detail: str  # names the sample


class Batch(NamedTuple):
    """One step's input; pixels are not yet augmented on the device nor normalized."""

    step: int
    images: Tensor | NativeImages  # uint8 (B, 3, S, S), in channels-last memory; or their patches
    tokens: Tensor  # int64 (U, T)
    captions: list[str]  # U, the texts of the tokens
    caption_of: Tensor  # int64 (B,) row of `tokens` of each image
    uniform: Tensor  # float32 (B, 3) random numbers for augmentation on the device
    keys: list[str]  # B
    faults: list[SampleFault]  # samples that were replaced
    epoch: int
    positions: Tensor  # int64 (B,) places in the epoch's order: with seed and epoch, the key of
    # everything random about a sample
    image_marks: Tensor  # int64 (B, 2) equal for equal images


class Place(NamedTuple):
    """One place of a batch, to be filled with a sample."""

    epoch: int
    position: int  # in the epoch's order
    planned: int  # index of the planned sample
    uniform: Sequence[float]  # random numbers for its crop
    size: int | NativeSize  # side of its pixels


Read = Callable[[Place, list[SampleFault]], tuple[Sample, NDArray[np.uint8]]]
"""From a place, and a list to add faults to, to a sample and its pixels (S, S, 3), or (h, w, 3)."""


class DecodedSource:
    """A source whose images are decoded once, at the model's size, and kept in memory."""

    def __init__(self, reader: PixelReader, size: int, *, progress: bool) -> None:
        count = len(reader.source)
        self.size = size
        self.pixels = torch.empty(count, size, size, 3, dtype=torch.uint8)
        self.samples: list[Sample | BadSample] = []
        for index in progress_bar(range(count), "decode", unit="img", show=progress):
            try:
                sample, pixels = reader.read(index, (), size)
            except BadSample as error:
                self.samples.append(error)
            else:
                self.pixels.numpy()[index] = pixels
                self.samples.append(replace(sample, image=digest_image(sample.image)))

    def read(self, index: int) -> tuple[Sample, NDArray[np.uint8]]:
        """The sample (with a digest in place of its file) and its pixels (S, S, 3)."""
        sample = self.samples[index]
        if isinstance(sample, BadSample):
            raise sample
        return sample, self.pixels[index].numpy()


class _Images:
    """The pixels of a batch: squares, put into one array at once, or images of their own shape."""

    def __init__(self, count: int, size: int | NativeSize, patch_size: int | None) -> None:
        self.patch_size = patch_size
        self.native: list[Tensor] = []
        self.squares, self.filled = torch.empty(0), 0
        if isinstance(size, int):
            self.squares = torch.empty(count, size, size, 3, dtype=torch.uint8)

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """The next image (h, w, 3)."""
        if len(self.squares):
            self.squares.numpy()[self.filled] = pixels
            self.filled += 1
        else:
            own = np.array(pixels)  # Pillow's may not be written to, which torch warns of
            self.native.append(torch.from_numpy(own).permute(2, 0, 1))

    def stack(self) -> Tensor | NativeImages:
        """Squares (B, 3, S, S) in channels-last memory, or patches."""
        if not self.native:
            return self.squares.permute(0, 3, 1, 2)
        assert self.patch_size is not None
        return NativeImages.from_images(self.native, self.patch_size)


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
        tokenizer: Tokenizer,
        *,
        rank: int = 0,
        world_size: int = 1,
        progress: bool = False,
    ) -> None:
        self.source = source
        self.rank = rank
        self.world_size = world_size
        self.plan = plan
        if isinstance(plan.schedule, TokenBatches) and plan.schedule.least_samples < world_size:
            raise ConfigError(
                f"data.token_budget {plan.schedule.budget} may hold only "
                f"{plan.schedule.least_samples} samples, fewer than the {world_size} processes; "
                "raise it, or start fewer"
            )
        self.config = config
        self.size, self.patch_size = preprocess.config.side, preprocess.config.patch_size
        self.tokenizer = tokenizer
        self.pixels = PixelReader(source, preprocess, config.augment, config.data)
        self.watchdog = WorkerWatchdog(config.data.workers)
        self.decoded = (
            DecodedSource(self.pixels, self.size, progress=progress)
            if config.data.cache_images
            else None
        )

    def __getitem__(self, step: int) -> Batch:
        if self.config.data.order == "stream":  # the first batch of such a reader
            return next(self.batches(step, step + 1, pin_memory=False))
        return self.assemble(step, self._read)

    def assemble(self, step: int, read: Read) -> Batch:
        """The batch of a step from the samples that `read` gives for its places."""
        epoch, planned, indices, side, max_tokens, costs = self.plan.batch(step)
        share = rank_slice(len(planned), self.rank, self.world_size)
        if costs is not None:
            share = share_work(costs, self.world_size)[self.rank]
        positions, indices = planned[share], indices[share]  # (B,)
        size = (side or self.size) if max_tokens is None else NativeSize(max_tokens)
        crops = keyed_uniform(self._seed, epoch, positions, "crop", 4 * CROP_ATTEMPTS)  # (B, ·)
        colors = (
            keyed_uniform(self._seed, epoch, positions, "color", NUMBERS)
            if changes_colors(self.config.augment)
            else None
        )
        flips = self._draw_shifts(epoch, positions)[:, 2] < 0.5  # (B,)
        images = _Images(len(positions), size, self.patch_size)
        samples, faults = [], list[SampleFault]()
        for row, position in enumerate(positions.tolist()):
            place = Place(epoch, position, int(indices[row]), crops[row].tolist(), size)
            sample, pixels = read(place, faults)
            if colors is not None:
                pixels = jitter_colors(pixels, colors[row].tolist(), self.config.augment)
            if max_tokens is not None and self.config.augment.flip and flips[row]:
                pixels = pixels[:, ::-1]  # squares are mirrored on the device
            images.add(pixels)
            samples.append(sample)
        is_per_batch = self.config.data.template_choice == "batch"
        choosers = np.full_like(positions, planned[0]) if is_per_batch else positions
        return self._collate(step, epoch, positions, choosers, samples, images.stack(), faults)

    def _collate(
        self,
        step: int,
        epoch: int,
        positions: NDArray[np.int64],
        choosers: NDArray[np.int64],
        samples: list[Sample],
        images: Tensor | NativeImages,
        faults: list[SampleFault],
    ) -> Batch:
        """Choose and tokenize captions; `choosers` (B,) key the choice."""
        choice = keyed_uniform(self._seed, epoch, choosers, "caption")[:, 0]  # (B,)
        captions = [
            sample.captions[int(chosen * len(sample.captions))]
            for sample, chosen in zip(samples, choice, strict=True)
        ]
        distinct, caption_of = number_captions(
            captions, merge_equal=self.config.loss.kind == "multi_positive"
        )
        tokens = self._tokenize(step, distinct)  # (U, T)
        batch = Batch(
            step=step,
            images=images,
            tokens=tokens,
            captions=distinct,
            caption_of=caption_of,
            uniform=torch.from_numpy(as_float32(self._draw_shifts(epoch, positions))),
            keys=[sample.key for sample in samples],
            faults=faults,
            epoch=epoch,
            positions=torch.from_numpy(positions),
            image_marks=mark_images([digest_image(sample.image) for sample in samples]),
        )
        return sort_by_length(batch) if self.config.data.sort_by_length else batch

    def _draw_shifts(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """(B, 3) numbers in [0, 1): shifts, and flips below 0.5."""
        uniform = keyed_uniform(self._seed, epoch, positions, "shift", 3)
        if self.config.augment.flip_choice == "alternating":
            uniform[:, 2] = self._alternate_sides(epoch, positions)
        return uniform

    def _alternate_sides(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Numbers (B,) below 0.5 for images to flip: one half in even epochs, the other in odd.

        They are drawn once for each sample that the plan names, whatever stands in for it.
        """
        order = self.plan.order
        planned = order.indices(epoch, positions % order.num_samples)
        sides = keyed_uniform(self._seed, 0, planned, "side")[:, 0]
        return (sides + 0.5 * (epoch % 2)) % 1.0

    def _tokenize(self, step: int, captions: list[str]) -> Tensor:
        """Ids (U, T); which tokens of a long caption stay follows from the step and its text."""
        reduction = self.config.tokenizer.reduction
        if reduction in ("truncate", "syntax"):
            return self.tokenizer(captions, reduction=reduction)
        rows: list[Tensor] = []
        for caption in captions:
            digest = hashlib.blake2b(f"{self._seed}/{step}/{caption}".encode(), digest_size=16)
            generator = np.random.Generator(np.random.Philox(key=int(digest.hexdigest(), 16)))
            rows.append(self.tokenizer([caption], reduction=reduction, generator=generator))
        return torch.cat(rows)

    def _read(self, place: Place, faults: list[SampleFault]) -> tuple[Sample, NDArray[np.uint8]]:
        """The planned sample, or the first readable one of its fixed list of replacements."""
        index = place.planned
        for attempt in range(MAX_REPLACEMENTS):
            try:
                if self.decoded is not None and place.size == self.size:
                    return self.decoded.read(index)
                with self.watchdog.reading(self.source.place(index)):
                    return self.pixels.read(index, place.uniform, place.size)
            except BadSample as error:
                faults.append(SampleFault(error.reason, str(error)))
            index = self.plan.replacement(place.epoch, place.position, attempt)
        raise DataError(
            f"{self.source.name}: {MAX_REPLACEMENTS} samples in a row could not be used, "
            f"such as {faults[-1].detail}"
        )

    def batches(self, first: int, stop: int, *, pin_memory: bool) -> Iterator[Batch]:
        """The batches of steps first … stop - 1, in order, read ahead by worker processes.

        Raises:
            DataError: The data cannot be used, or a worker is stuck or dead; the message says
                where it was reading.
        """
        data = self.config.data
        loader = BatchLoader(
            self.watchdog,
            workers=data.workers,
            prefetch=data.prefetch,
            stall_seconds=data.stall_seconds,
            pin_memory=pin_memory,
        )
        if data.order == "stream":
            yield from loader.load(_StreamedBatches(self, first, stop), None)
        else:
            yield from loader.load(self, range(first, stop))

    @property
    def _seed(self) -> int:
        return self.config.train.seed


class _StreamedBatches(IterableDataset[Batch]):
    """Batches of steps first … stop - 1 from a stream; each worker makes every W-th."""

    def __init__(self, reader: BatchReader, first: int, stop: int) -> None:
        assert isinstance(reader.source, ShardStream)
        self.reader, self.stream = reader, reader.source
        self.first, self.stop = first, stop

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        seed = self.reader.config.train.seed
        found = SampleStream(self.stream, f"{seed}/{self.first}/{self.reader.rank}/{worker}")
        for step in range(self.first + worker, self.stop, workers):
            yield self.reader.assemble(step, functools.partial(self._read, found))

    def _read(
        self, found: SampleStream, place: Place, faults: list[SampleFault]
    ) -> tuple[Sample, NDArray[np.uint8]]:
        """The next sample that can be used; what the plan says of its place is ignored."""
        for _ in range(MAX_FAULTS_IN_A_ROW):
            try:
                sample = next(found)
                with self.reader.watchdog.reading(sample.key):
                    return sample, self.reader.pixels.decode(sample, place.uniform, place.size)
            except BadSample as error:
                faults.append(SampleFault(error.reason, str(error)))
        raise DataError(
            f"{self.stream.name}: {MAX_FAULTS_IN_A_ROW} samples in a row could not be used, such "
            f"as {faults[-1].detail}"
        )


def rank_slice(length: int, rank: int, world_size: int) -> slice:
    """The part of a batch of `length` that belongs to a rank; lengths differ by at most one."""
    return slice(length * rank // world_size, length * (rank + 1) // world_size)


def sort_by_length(batch: Batch) -> Batch:
    """The batch with its captions, and with them its samples, from short to long."""
    ends = (batch.tokens != 0).int().flip(1).argmax(dim=1)  # (U,) padding after the last token
    order = torch.argsort(ends, descending=True, stable=True)  # (U,)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    caption_of = rank[batch.caption_of]  # (B,)
    rows = torch.argsort(caption_of, stable=True)  # (B,)
    images = batch.images
    if isinstance(images, NativeImages):
        images = images[rows.tolist()]
    else:
        images = images[rows].contiguous(memory_format=torch.channels_last)
    return batch._replace(
        images=images,
        tokens=batch.tokens[order],
        captions=[batch.captions[row] for row in order.tolist()],
        caption_of=caption_of[rows],
        uniform=batch.uniform[rows],
        keys=[batch.keys[row] for row in rows.tolist()],
        positions=batch.positions[rows],
        image_marks=batch.image_marks[rows],
    )

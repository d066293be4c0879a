"""The candidates of a batch: its distinct captions, and the images that it repeats.

n images and u texts of this rank, m texts that it owns; N images, U texts and M distinct captions
of all ranks, K images that occur more than once; T text tokens, R ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clip_train.distributed.communicator import SINGLE_PROCESS, Communicator


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The captions of a global batch, each counted once, as one rank sees them.

    A caption that occurs on several ranks is encoded on each of them, and owned by the first.

    Attributes:
        caption_of: (n,) row of this rank's texts that describes each of its images.
        owned: (m,) rows of this rank's texts that it owns.
        occurrences: (m,) images of the whole batch that carry each owned caption.
        owned_counts: Owned captions of each of R ranks.
        image_counts: Images of each rank.
        text_counts: Texts that each rank encodes.
        repeated: (n,) number of each image among those that occur more than once in the whole
            batch, -1 for an image that does not; None if no image does, on any rank.
        repeats: (K,) times that each of those occurs in the whole batch; None like `repeated`.
    """

    caption_of: Tensor
    owned: Tensor
    occurrences: Tensor
    owned_counts: tuple[int, ...]
    image_counts: tuple[int, ...]
    text_counts: tuple[int, ...]
    repeated: Tensor | None = None
    repeats: Tensor | None = None

    @property
    def num_images(self) -> int:
        """Images of the whole batch."""
        return sum(self.image_counts)

    @property
    def num_captions(self) -> int:
        """Distinct captions of the whole batch."""
        return sum(self.owned_counts)

    def to(self, device: torch.device) -> Candidates:
        """The same on another device."""
        return replace(
            self,
            caption_of=self.caption_of.to(device, non_blocking=True),
            owned=self.owned.to(device, non_blocking=True),
            occurrences=self.occurrences.to(device, non_blocking=True),
            repeated=None if self.repeated is None else self.repeated.to(device, non_blocking=True),
            repeats=None if self.repeats is None else self.repeats.to(device, non_blocking=True),
        )


def separate_candidates(
    caption_of: Tensor, communicator: Communicator = SINGLE_PROCESS
) -> Candidates:
    """Candidates of texts that all count as different, one text per image and all of them used."""
    counts = _gather_counts(len(caption_of), communicator)
    return Candidates(
        caption_of=caption_of,
        owned=torch.arange(len(caption_of)),
        occurrences=torch.ones(len(caption_of), dtype=torch.int64),
        owned_counts=counts,
        image_counts=counts,
        text_counts=counts,
    )


def merge_candidates(
    tokens: Tensor,
    caption_of: Tensor,
    communicator: Communicator = SINGLE_PROCESS,
    *,
    images: Tensor | None = None,
) -> Candidates:
    """Candidates of texts of which equal ones, on any rank, are one.

    Texts are equal when their tokens are; the ranks exchange 128 bits of each text for that.

    Args:
        tokens: int64 (u, T) on the CPU.
        caption_of: (n,) row of `tokens` that describes each image.
        communicator: The ranks of the batch.
        images: int64 (n, ·) on the CPU, equal for equal images; None if all of them differ.
    """
    candidates = _merge_equal(hash_tokens(tokens), caption_of, communicator)
    return candidates if images is None else _find_repeats(candidates, images, communicator)


def candidates_from_labels(
    labels: Tensor,
    communicator: Communicator = SINGLE_PROCESS,
    *,
    images: Tensor | None = None,
) -> Candidates:
    """Candidates of image–text pairs of which those with equal labels, on any rank, are one.

    An image's caption is the text of the first pair with its label on its rank.

    Args:
        labels: int64 (n,) on the CPU: a number of each pair's caption.
        communicator: The ranks of the batch.
        images: int64 (n,) on the CPU: a number of each pair's image; None if all of them differ.
    """
    first_rows: dict[int, int] = {}
    rows = [first_rows.setdefault(label, row) for row, label in enumerate(labels.tolist())]
    caption_of = torch.tensor(rows, dtype=torch.int64)
    candidates = _merge_equal(labels[:, None], caption_of, communicator)
    if images is None:
        return candidates
    return _find_repeats(candidates, images[:, None], communicator)


def resolve_candidates(
    labels: Tensor | Candidates | None,
    image_features: Tensor,
    text_features: Tensor,
    communicator: Communicator,
    image_labels: Tensor | None = None,
) -> Candidates:
    """The candidates that a loss was given, or those of its pairs.

    Raises:
        ValueError: Images, texts and labels are not as many.
    """
    if isinstance(labels, Candidates):
        return labels
    count = len(image_features)
    if len(text_features) != count:
        raise ValueError(
            f"expected a text for each of {count} images, got {len(text_features)}; repeat the "
            "text of a caption that several images share, and give the captions' labels"
        )
    for given in (labels, image_labels):
        if given is not None and (given.shape != (count,) or given.is_floating_point()):
            raise ValueError(
                f"expected labels of shape ({count},) and an integer type, one for each pair, got "
                f"{tuple(given.shape)} of {given.dtype}"
            )
    images = None if image_labels is None else image_labels.cpu()
    if labels is not None:
        candidates = candidates_from_labels(labels.cpu(), communicator, images=images)
    else:
        candidates = separate_candidates(torch.arange(count), communicator)
        if images is not None:
            candidates = _find_repeats(candidates, images[:, None], communicator)
    return candidates.to(image_features.device)


def _find_repeats(candidates: Candidates, marks: Tensor, communicator: Communicator) -> Candidates:
    """The candidates with the images, marked by (n, ·), that the whole batch holds repeatedly."""
    every = torch.cat(communicator.all_gather(marks, candidates.image_counts))  # (N, ·)
    _, number, counts = torch.unique(every, dim=0, return_inverse=True, return_counts=True)
    is_repeated = counts > 1
    if not is_repeated.any():
        return candidates
    numbers = torch.where(is_repeated, is_repeated.cumsum(0) - 1, -1)
    start = sum(candidates.image_counts[: communicator.rank])
    own = number[start : start + len(marks)]  # (n,)
    return replace(candidates, repeated=numbers[own], repeats=counts[is_repeated])


def _merge_equal(marks: Tensor, caption_of: Tensor, communicator: Communicator) -> Candidates:
    """Candidates of texts with marks (u, ·), of which those with equal marks are one."""
    text_counts = _gather_counts(len(marks), communicator)
    image_counts = _gather_counts(len(caption_of), communicator)
    every = torch.cat(communicator.all_gather(marks, text_counts))  # (U, ·)
    _, number = torch.unique(every, dim=0, return_inverse=True)  # (U,) of M distinct
    first = torch.full((int(number.max()) + 1,), len(number))
    first = first.scatter_reduce(0, number, torch.arange(len(number)), "amin")  # (M,)
    start = sum(text_counts[: communicator.rank])
    local = number[start : start + len(marks)]  # (u,)
    counted = torch.bincount(local[caption_of], minlength=len(first))  # (M,) of this rank
    occurrences = communicator.all_reduce(counted)  # (M,)
    owned = (first[local] == torch.arange(start, start + len(local))).nonzero()[:, 0]  # (m,)
    bounds = torch.tensor([sum(text_counts[:r]) for r in range(communicator.world_size)])
    owners = torch.bucketize(first, bounds, right=True) - 1  # (M,) first ranks
    return Candidates(
        caption_of=caption_of,
        owned=owned,
        occurrences=occurrences[local[owned]],
        owned_counts=tuple(torch.bincount(owners, minlength=communicator.world_size).tolist()),
        image_counts=image_counts,
        text_counts=text_counts,
    )


def hash_tokens(tokens: Tensor) -> Tensor:
    """Two 64-bit words (u, 2) of each row of int64 (u, T), the same for any padding with zeros."""
    generator = torch.Generator().manual_seed(0x5EED)
    bounds = torch.iinfo(torch.int64)
    factors = torch.randint(
        bounds.min, bounds.max, (tokens.shape[1], 2), generator=generator, dtype=torch.int64
    )  # one row after the other, so that more columns of padding do not change the first ones
    return (tokens[:, :, None] * factors).sum(dim=1)  # multilinear hashing modulo 2^64


def _gather_counts(count: int, communicator: Communicator) -> tuple[int, ...]:
    """That number of every rank."""
    counts = communicator.all_gather(torch.tensor([count]), [1] * communicator.world_size)
    return tuple(torch.cat(counts).tolist())

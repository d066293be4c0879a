"""Which captions a batch tells apart.  n images and u texts on a rank, T text tokens, R ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clip_train.distributed.communicator import SOLO, Communicator


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The captions of a global batch, each counted once, as one rank sees them.

    A caption that occurs on several ranks is encoded on each of them, and owned by the first.
    """

    caption_of: Tensor  # (n,) row of this rank's texts that describes each of its images
    owned: Tensor  # (m,) rows of this rank's texts that it owns
    occurrences: Tensor  # (m,) images of the whole batch that carry each owned caption
    owned_counts: tuple[int, ...]  # R: owned captions of every rank
    image_counts: tuple[int, ...]  # R: images of every rank
    text_counts: tuple[int, ...]  # R: texts that every rank encodes

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
        )


def separate_candidates(caption_of: Tensor, communicator: Communicator = SOLO) -> Candidates:
    """Candidates of texts that all count as different, one text per image and all of them used."""
    counts = _counts(len(caption_of), communicator)
    return Candidates(
        caption_of=caption_of,
        owned=torch.arange(len(caption_of)),
        occurrences=torch.ones(len(caption_of), dtype=torch.int64),
        owned_counts=counts,
        image_counts=counts,
        text_counts=counts,
    )


def merged_candidates(
    tokens: Tensor, caption_of: Tensor, communicator: Communicator = SOLO
) -> Candidates:
    """Candidates of texts of which equal ones, on whatever rank, are one.

    Texts are equal when their tokens are; the ranks exchange 128 bits of each text for that.

    Args:
        tokens: int64 (u, T) on the CPU.
        caption_of: (n,) row of `tokens` that describes each image.
        communicator: The ranks of the batch.
    """
    text_counts = _counts(len(tokens), communicator)
    image_counts = _counts(len(caption_of), communicator)
    marks = torch.cat(communicator.gather(token_hash(tokens), text_counts))  # (U, 2)
    _, number = torch.unique(marks, dim=0, return_inverse=True)  # (U,) of M distinct
    first = torch.full((int(number.max()) + 1,), len(number))
    first = first.scatter_reduce(0, number, torch.arange(len(number)), "amin")  # (M,)
    start = sum(text_counts[: communicator.rank])
    local = number[start : start + len(tokens)]  # (u,)
    occurrences = communicator.sum(torch.bincount(local[caption_of], minlength=len(first)))  # (M,)
    owned = (first[local] == torch.arange(start, start + len(local))).nonzero()[:, 0]  # (m,)
    bounds = torch.tensor([sum(text_counts[:r]) for r in range(communicator.world)])
    owners = torch.bucketize(first, bounds, right=True) - 1  # (M,) first ranks
    return Candidates(
        caption_of=caption_of,
        owned=owned,
        occurrences=occurrences[local[owned]],
        owned_counts=tuple(torch.bincount(owners, minlength=communicator.world).tolist()),
        image_counts=image_counts,
        text_counts=text_counts,
    )


def token_hash(tokens: Tensor) -> Tensor:
    """Two 64-bit words (u, 2) of each row, the same whatever zeros pad it; int64 (u, T)."""
    generator = torch.Generator().manual_seed(0x5EED)
    bounds = torch.iinfo(torch.int64)
    factors = torch.randint(
        bounds.min, bounds.max, (tokens.shape[1], 2), generator=generator, dtype=torch.int64
    )  # one row after the other, so that more columns of padding do not change the first ones
    return (tokens[:, :, None] * factors).sum(dim=1)  # multilinear hashing modulo 2^64


def number_captions(captions: list[str], *, merge_equal: bool) -> tuple[list[str], Tensor]:
    """The candidates of a batch, and which of them belongs to each image.

    Args:
        captions: One per image (B).
        merge_equal: Whether equal captions are one candidate.

    Returns:
        The candidates (U of them, in order of first appearance) and `caption_of` (B,).
    """
    if not merge_equal:
        return captions, torch.arange(len(captions))
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(caption, len(numbers)) for caption in captions]
    return list(numbers), torch.tensor(rows)


def _counts(count: int, communicator: Communicator) -> tuple[int, ...]:
    """That number of every rank."""
    every = communicator.gather(torch.tensor([count]), [1] * communicator.world)
    return tuple(torch.cat(every).tolist())

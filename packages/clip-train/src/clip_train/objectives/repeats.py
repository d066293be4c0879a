"""Equal images and captions in a batch: how many there are, and the least loss they allow.

N pairs of G distinct images and M distinct captions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from clip_train.config.training import LossConfig


class PairCounts(NamedTuple):
    """The pairs of a batch, counted."""

    pairs: Tensor  # float64 (G, M) pairs of an image and a caption

    @property
    def num_pairs(self) -> int:
        """Pairs of the batch."""
        return int(self.pairs.sum())

    @property
    def repeated_images(self) -> int:
        """Pairs beyond the first of each image."""
        return self.num_pairs - self.pairs.shape[0]

    @property
    def repeated_captions(self) -> int:
        """Pairs beyond the first of each caption."""
        return self.num_pairs - self.pairs.shape[1]

    def summary(self) -> dict[str, int]:
        """The numbers to log."""
        return {
            "pairs": self.num_pairs,
            "repeated_images": self.repeated_images,
            "repeated_captions": self.repeated_captions,
        }


def count_pairs(images: Tensor, captions: Tensor) -> PairCounts:
    """Count the pairs of a batch.

    Args:
        images: int64 (N, ·) equal for equal images.
        captions: int64 (N, ·) equal for equal captions.
    """
    _, image = torch.unique(images, dim=0, return_inverse=True)  # (N,)
    _, caption = torch.unique(captions, dim=0, return_inverse=True)  # (N,)
    counts = torch.zeros(int(image.max()) + 1, int(caption.max()) + 1, dtype=torch.float64)
    ones = torch.ones(len(images), dtype=torch.float64)
    return PairCounts(counts.index_put((image, caption), ones, accumulate=True))


def least_loss(config: LossConfig, counts: PairCounts) -> float | None:
    """The loss in nats below which no model can come whose equal inputs have equal features.

    It is the entropy of the targets: 0 where all images and all captions differ and nothing is
    smoothed. None for a loss that depends on a teacher.
    """
    if config.kind == "none" or config.teacher or config.teacher_images:
        return None
    pairs, total = counts.pairs, counts.num_pairs
    if config.kind == "sigmoid":
        cells = pairs.sum(dim=1, keepdim=True) * pairs.sum(dim=0)  # (G, M) decisions
        share = pairs / cells
        entropy = cells * (_surprise(share) + _surprise(1 - share))
        return float(entropy.sum() / total)
    both = [
        _least_of_images(one, config.label_smoothing, merges=config.kind == "multi_positive")
        for one in (pairs, pairs.T)
    ]
    if config.kind == "multi_positive":
        both[1] = _least_of_captions(pairs, config.label_smoothing)
    weight = config.caption_share
    return float(((1 - weight) * both[0] + weight * both[1]) / total)


def collapsed_loss(config: LossConfig, counts: PairCounts) -> float | None:
    """The loss of features that are all alike; None for one that is no softmax alone."""
    if config.kind in ("none", "sigmoid") or config.teacher or config.teacher_images:
        return None
    captions = counts.pairs.shape[1] if config.kind == "multi_positive" else counts.num_pairs
    share = config.caption_share
    return (1 - share) * math.log(captions) + share * math.log(counts.num_pairs)


def _least_of_images(pairs: Tensor, smoothing: float, *, merges: bool) -> Tensor:
    """Sum () over images (G) with captions (M), which are one candidate each if `merges`."""
    of_image, of_caption = pairs.sum(dim=1, keepdim=True), pairs.sum(dim=0)
    even = 1 / pairs.shape[1] if merges else of_caption / pairs.sum()
    target = (1 - smoothing) * pairs / of_image + smoothing * even  # (G, M)
    least = _surprise(target)
    if not merges:  # the probability of a caption is spread over its copies
        least = least + target * of_caption.log()
    return (of_image * least).sum()


def _least_of_captions(pairs: Tensor, smoothing: float) -> Tensor:
    """Sum () over captions (M), each one candidate, of targets on all copies of images (G)."""
    of_image, of_caption = pairs.sum(dim=1, keepdim=True), pairs.sum(dim=0)
    target = (1 - smoothing) * pairs / (of_caption * of_image) + smoothing / pairs.sum()
    return (of_caption * of_image * _surprise(target)).sum()


def _surprise(probability: Tensor) -> Tensor:
    """`-p log p`, elementwise; 0 for p = 0."""
    return -torch.special.xlogy(probability, probability)

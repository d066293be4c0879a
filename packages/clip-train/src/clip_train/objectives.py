"""Contrastive objectives.  B images, U distinct captions, E embedding width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    caption_of: Tensor,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Symmetric InfoNCE in which an image's positives are its caption, however often it occurs.

    Each distinct caption is one candidate.  From images to captions it is the cross entropy of an
    image's own caption.  From captions to images the target is uniform over the images that carry
    the caption, and a caption counts as often as it occurs (UniCL, Yang et al. 2022, equations 3
    to 5; deviation: there a repeated caption is also repeated as a candidate).  When all captions
    differ this is CLIP's loss (Radford et al. 2021, figure 3).

    Args:
        image_features: (B, E), L2-normalised.
        text_features: (U, E), L2-normalised, one row per distinct caption.
        logit_scale: () inverse temperature.
        caption_of: (B,) row of `text_features` that describes each image.
        label_smoothing: Share of each target spread evenly over all candidates.

    Returns:
        () mean of both directions, in nats.
    """
    logits = logit_scale * image_features @ text_features.T  # (B, U)
    positive = F.one_hot(caption_of, len(text_features)).to(logits.dtype)  # (B, U)
    to_text = F.cross_entropy(logits, caption_of, label_smoothing=label_smoothing)
    occurrences = positive.sum(dim=0)  # (U,)
    targets = (positive / occurrences.clamp(min=1)).T  # (U, B)
    per_caption = F.cross_entropy(
        logits.T, targets, reduction="none", label_smoothing=label_smoothing
    )  # (U,)
    to_image = (per_caption * occurrences).sum() / len(image_features)
    return (to_text + to_image) / 2


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

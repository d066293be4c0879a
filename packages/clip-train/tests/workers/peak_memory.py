"""Extra peak memory of one forward and backward of InfoNCE, in a process of its own."""

from __future__ import annotations

import resource

import torch
from clip_train.objectives.candidates import separate_candidates
from clip_train.objectives.losses import contrastive_loss
from torch.nn.functional import normalize


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(batch: int, width: int, tile: int | None) -> int:
    """Bytes by which the process's highest resident memory grows."""
    images, texts = (normalize(torch.randn(batch, width), dim=1).requires_grad_() for _ in "ab")
    scale = torch.tensor(20.0, requires_grad=True)
    few = separate_candidates(torch.arange(64))
    contrastive_loss(images[:64], texts[:64], scale, few, tile=tile).backward()
    before = peak()
    all_of_them = separate_candidates(torch.arange(batch))
    contrastive_loss(images, texts, scale, all_of_them, tile=tile).backward()
    return peak() - before

"""Contrastive objectives whose gradients are those of the whole batch, on any number of ranks."""

from clip_train.objectives.candidates import (
    Candidates,
    merged_candidates,
    number_captions,
    separate_candidates,
)
from clip_train.objectives.losses import contrastive_loss, distillation_loss, sigmoid_loss

__all__ = [
    "Candidates",
    "contrastive_loss",
    "distillation_loss",
    "merged_candidates",
    "number_captions",
    "separate_candidates",
    "sigmoid_loss",
]

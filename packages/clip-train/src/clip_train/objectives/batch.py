"""The batch of one rank as objectives see it.

n images and u texts of this rank, T text tokens, S image side, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from clip_models import NativeImages
from torch import Tensor

from clip_train.objectives.candidates import Candidates


class StepInputs(NamedTuple):
    """One rank's batch on its device."""

    images: Tensor | NativeImages  # (n, 3, S, S) normalized, or of their own shape
    tokens: Tensor  # int64 (u, T)
    image_keys: Tensor  # int64 (n,)
    text_keys: Tensor  # int64 (u,)
    candidates: Candidates


class Embeddings(NamedTuple):
    """L2-normalized features, and the scale and bias of their scores."""

    images: Tensor  # (n, E)
    texts: Tensor  # (u, E)
    logit_scale: Tensor  # ()
    logit_bias: Tensor | None  # ()


Objective = Callable[[Embeddings, Candidates], dict[str, Tensor]]
"""This rank's share () of each of the losses that add up to the training loss, by name."""

"""Results of a tower and of the model. B batch, E embedding width."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TowerOutput(NamedTuple):
    """Features of one tower with the losses and records of its parts.

    Attributes:
        features: (B, E), not normalized.
        losses: Scalars to add to the task's loss, by the name of the part.
        records: Tensors to log, by the name of the part.
    """

    features: Tensor
    losses: dict[str, Tensor]
    records: dict[str, dict[str, Tensor]]


class CLIPOutput(NamedTuple):
    """Result of `CLIP.forward`; features are L2-normalized."""

    image_features: Tensor  # (B, E)
    text_features: Tensor  # (B, E)
    logit_scale: Tensor  # () inverse temperature, already exponentiated
    logit_bias: Tensor | None  # ()
    losses: dict[str, Tensor]  # scalars to add to the contrastive loss, such as "vision.pooling"
    records: dict[str, dict[str, Tensor]]  # tensors to log, by the same names

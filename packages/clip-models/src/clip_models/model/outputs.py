"""Results of a tower and of the model. B batch, E embedding width."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TowerOutput(NamedTuple):
    """Features of one tower and what came up on the way.

    Attributes:
        features: (B, E), not normalised.
        losses: Scalars to add to the task's loss, by the part they come from.
        records: What to log, by the part it comes from.
    """

    features: Tensor
    losses: dict[str, Tensor]
    records: dict[str, dict[str, Tensor]]


class CLIPOutput(NamedTuple):
    """What `CLIP.forward` returns; features are L2-normalised."""

    image_features: Tensor  # (B, E)
    text_features: Tensor  # (B, E)
    logit_scale: Tensor  # () inverse temperature, already exponentiated
    logit_bias: Tensor | None  # ()
    losses: dict[str, Tensor]  # scalars to add to the contrastive loss, such as "vision.pooling"
    records: dict[str, dict[str, Tensor]]  # what to log, by the same names

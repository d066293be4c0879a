"""What a tower returns.  B batch, E embedding width."""

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

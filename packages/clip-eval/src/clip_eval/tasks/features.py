"""Features and labels of the training data of probes and kNN. N samples, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_eval.encoding.batches import ImageBatch
from clip_eval.errors import EvaluationError
from clip_eval.tasks.task import require_label


class LabeledFeature(NamedTuple):
    """One sample: its features (D,) and its label."""

    feature: NDArray[np.float32]
    label: int


class CollectFeatures:
    """Collects the features of labeled images, except those that are not finite."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes

    def rows(self, batch: ImageBatch, features: Tensor) -> list[LabeledFeature]:
        """The batch's features and labels."""
        return [
            LabeledFeature(feature, require_label(sample, self.n_classes))
            for sample, feature in zip(batch.samples, features.cpu().numpy(), strict=True)
            if np.isfinite(feature).all()
        ]

    def stack(self, rows: Sequence[LabeledFeature]) -> tuple[Tensor, Tensor]:
        """Stack rows to features (N, D) and labels (N,).

        Raises:
            EvaluationError: There are no rows.
        """
        if not rows:
            raise EvaluationError("none of the training images could be used")
        features = torch.from_numpy(np.stack([row.feature for row in rows]))
        return features, torch.tensor([row.label for row in rows])


def choose_shots(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Choose `shots` samples of each class by the seed; their positions, in order."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=draw)
    taken = [order[labels[order] == label][:shots] for label in sorted(set(labels.tolist()))]
    return torch.cat(taken).sort().values

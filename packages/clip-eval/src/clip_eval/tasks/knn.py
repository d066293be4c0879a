"""Classification by the nearest training images. B batch, C classes, D width, K neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clip_eval.encoding.batches import ImageBatch
from clip_eval.results.result import Prediction, Result
from clip_eval.tasks.classification import KS, MAX_GUESSES, classification_result
from clip_eval.tasks.task import require_label

TEMPERATURE = 0.07
IMAGES_AT_ONCE = 16384


def vote(
    features: Tensor,
    train: Tensor,
    labels: Tensor,
    n_classes: int,
    *,
    k: int,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Compute the share of the vote of each class (B, C); weights are exp(similarity / T).

    Wu et al. 2018 (arXiv 1805.01978), section 3.4.

    Args:
        features: Unit vectors (B, D).
        train: Unit vectors (N, D).
        labels: Labels of the training images (N,).
        n_classes: C.
        k: Number of neighbours; all if there are fewer.
        temperature: A small one favours the nearest.
    """
    values, owners = [], []
    for start in range(0, len(train), IMAGES_AT_ONCE):
        part = features @ train[start : start + IMAGES_AT_ONCE].T  # (B, part)
        best = part.topk(min(k, part.shape[1]), dim=1)
        values.append(best.values)
        owners.append(labels[best.indices + start])
    similarity, owner = torch.cat(values, dim=1), torch.cat(owners, dim=1)
    best = similarity.topk(min(k, similarity.shape[1]), dim=1)
    weights = (best.values / temperature).softmax(dim=1)  # (B, K)
    shares = features.new_zeros(len(features), n_classes)
    return shares.scatter_add_(1, owner.gather(1, best.indices), weights)


class NearestNeighbors:
    """Classification by a vote of the nearest training images.

    Args:
        names: Class names in label order.
        train: Unit vectors (N, D), on the device of the features.
        labels: Labels of the training images (N,), on the same device.
        k: Number of neighbours.
        ks: The values of k of top-k accuracy.
    """

    def __init__(
        self,
        names: Sequence[str],
        train: Tensor,
        labels: Tensor,
        *,
        k: int = 20,
        ks: Sequence[int] = KS,
    ) -> None:
        self.names, self.train, self.labels, self.k = tuple(names), train, labels, k
        self.ks = tuple(ks)

    def rows(self, batch: ImageBatch, features: Tensor) -> list[Prediction]:
        """Return the classes with most of the vote; classes without a vote are no guesses."""
        if not batch.samples:
            return []
        shares = vote(features, self.train, self.labels, len(self.names), k=self.k)
        shares[~shares.isfinite().all(dim=1)] = 0
        best = shares.topk(min(max(MAX_GUESSES, *self.ks), len(self.names)), dim=1)
        return [
            Prediction(
                index=sample.index,
                key=sample.key,
                label=require_label(sample, len(self.names)),
                guesses=tuple(c for c, share in zip(classes, own, strict=True) if share > 0),
                probabilities=tuple(share for share in own if share > 0),
            )
            for sample, classes, own in zip(
                batch.samples, best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]

    def result(self, rows: Sequence[Prediction]) -> Result:
        """Return top-k accuracy, mean per-class recall, scores by class, and confusions."""
        return classification_result(rows, self.names, ks=self.ks, task="knn", prefix="knn_")

"""Multi-label classification: average precision of each class.

Legend: B batch, C classes, D width, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_eval.encoding.batches import ImageBatch
from clip_eval.errors import EvaluationError
from clip_eval.metrics.functions import average_precision, mean_average_precision_interval
from clip_eval.plurals import count_noun
from clip_eval.results.result import ClassScore, Result


class ScoredImage(NamedTuple):
    """The classes of an image, and its score for each class (C,)."""

    key: str
    targets: tuple[int, ...]
    scores: NDArray[np.float32]


class MultiLabel:
    """Ranks the images for each class.

    Args:
        names: Class names in label order.
        classifier: Class directions (C, D), on the device of the features.
    """

    def __init__(self, names: Sequence[str], classifier: Tensor) -> None:
        self.names, self.classifier = tuple(names), classifier

    def rows(self, batch: ImageBatch, features: Tensor) -> list[ScoredImage]:
        """Return the similarity of each image to each class."""
        if not batch.samples:
            return []
        scores = self.scores(features).cpu().numpy()  # (B, C)
        classes = len(self.names)
        return [
            ScoredImage(sample.key, require_targets(sample.key, sample.targets, classes), row)
            for sample, row in zip(batch.samples, scores, strict=True)
        ]

    def scores(self, features: Tensor) -> Tensor:
        """Compute the similarity of features (B, D) to each class, (B, C)."""
        return features @ self.classifier.T

    def result(self, rows: Sequence[ScoredImage]) -> Result:
        """Return the mean average precision, over the classes that have an image."""
        classes = len(self.names)
        scores = np.stack([row.scores for row in rows]) if rows else np.zeros((0, classes))
        finite: NDArray[np.bool_] = np.atleast_1d(np.isfinite(scores).all(axis=1))
        scores = np.where(finite[:, None], scores, -np.inf)  # ranked behind all others
        truth = np.zeros((len(rows), classes), dtype=bool)
        for row, target in zip(rows, truth, strict=True):
            target[list(row.targets)] = True
        each = [average_precision(scores[:, c], truth[:, c]) for c in range(classes)]
        present = [value for value in each if value is not None]
        mean = float(np.mean(present)) if present else None
        parity = sum(present) / classes if rows else None
        share = truth.mean(axis=0) if rows else np.zeros(classes)
        return Result(
            task="zeroshot_multilabel",
            metrics={"mean_average_precision": mean, "mean_average_precision_all": parity},
            n=len(rows),
            ci95={"mean_average_precision": mean_average_precision_interval(scores, truth)},
            chance=float(share[share > 0].mean()) if present else None,
            classnames=self.names,
            per_class=tuple(
                ClassScore(name=name, n=int(n), correct=0, accuracy=value)
                for name, n, value in zip(self.names, truth.sum(axis=0), each, strict=True)
            ),
            warnings=tuple(_diagnose(truth, finite)),
            records=tuple(_record(row, self.names) for row in rows),
        )


def require_targets(key: str, targets: tuple[int, ...] | None, n_classes: int) -> tuple[int, ...]:
    """Return the classes of a sample.

    Raises:
        EvaluationError: The sample has no list of classes, or one without a name.
    """
    if targets is None:
        raise EvaluationError(f"{key} has no list of classes, which multilabel needs")
    wrong = [label for label in targets if not 0 <= label < n_classes]
    if wrong:
        raise EvaluationError(
            f"{key} has label {wrong[0]}, but there are {n_classes} class names; check the class "
            "list"
        )
    return targets


def _diagnose(truth: NDArray[np.bool_], finite: NDArray[np.bool_]) -> Iterator[str]:
    """Yield warnings about marks (N, C) that say little, and about embeddings."""
    if not len(truth):
        yield "no sample could be used, so there is no number"
        return
    classes = truth.shape[1]
    absent, everywhere = int((~truth.any(axis=0)).sum()), int(truth.all(axis=0).sum())
    if absent:
        yield (
            f"{absent} of {count_noun(classes, 'class', 'classes')} have no image and are not in "
            "the mean; mean_average_precision_all counts each of them as 0"
        )
    if everywhere:
        yield (
            f"marked in every image: {everywhere} of {count_noun(classes, 'class', 'classes')}; "
            "their average precision is 100 % for any model, and in the mean"
        )
    invalid = int((~finite).sum())
    if invalid:
        yield count_noun(
            invalid,
            "sample has an embedding that is not finite; it is ranked last",
            "samples have embeddings that are not finite; they are ranked last",
        )


def _record(row: ScoredImage, names: Sequence[str]) -> dict[str, object]:
    best: list[int] = []  # for an embedding that is not finite
    own = None
    if np.isfinite(row.scores).all():
        best = torch.from_numpy(row.scores).topk(min(5, len(names))).indices.tolist()
        own = average_precision(row.scores, np.isin(np.arange(len(names)), row.targets))
    return {
        "key": row.key,
        "labels": [names[label] for label in row.targets],
        "guesses": [names[label] for label in best],
        "average_precision": own,
        "correct": bool(best) and best[0] in row.targets,
    }

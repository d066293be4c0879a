"""Classification by the nearest of C directions: zero-shot or trained.

Legend: B batch, C classes, D width, K guesses, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from clip_eval.encoding.batches import ImageBatch
from clip_eval.metrics.functions import (
    mean_per_class_recall,
    mean_recall_interval,
    top_confusions,
    topk_accuracy,
    wilson_interval,
)
from clip_eval.plurals import count_noun
from clip_eval.results.result import ClassScore, Confusion, Prediction, Result
from clip_eval.tasks.guesses import guess_classes
from clip_eval.tasks.task import require_label

MAX_GUESSES = 5
KS = (1, 5)


class Classification:
    """Predicts the class of highest score.

    Args:
        names: Class names in label order.
        classifier: Class directions (C, D), on the device of the features.
        scale: Factor on the products.
        bias: Added to the products (C,).
        ks: The values of k of top-k accuracy.
        task: Name of the task in the result.
        prefix: Prefix of the names of metrics.
    """

    def __init__(
        self,
        names: Sequence[str],
        classifier: Tensor,
        *,
        scale: float,
        bias: Tensor | None = None,
        ks: Sequence[int] = KS,
        task: str = "zeroshot_classification",
        prefix: str = "",
    ) -> None:
        self.names, self.classifier, self.scale, self.bias = tuple(names), classifier, scale, bias
        self.ks, self.task, self.prefix = tuple(ks), task, prefix

    def rows(self, batch: ImageBatch, features: Tensor) -> list[Prediction]:
        """Return the best guesses of each image."""
        if not batch.samples:
            return []
        guesses = guess_classes(
            features,
            self.classifier,
            scale=self.scale,
            bias=self.bias,
            limit=max(MAX_GUESSES, *self.ks),
        )
        return [
            Prediction(
                index=sample.index,
                key=sample.key,
                label=require_label(sample, len(self.names)),
                guesses=classes,
                probabilities=probabilities,
            )
            for sample, (classes, probabilities) in (
                (sample, guesses.row(row)) for row, sample in enumerate(batch.samples)
            )
        ]

    def result(self, rows: Sequence[Prediction]) -> Result:
        """Return top-k accuracy, mean per-class recall, scores by class, and confusions."""
        return classification_result(
            rows, self.names, ks=self.ks, task=self.task, prefix=self.prefix
        )


def classification_result(
    predictions: Sequence[Prediction],
    names: Sequence[str],
    *,
    ks: Sequence[int] = KS,
    task: str = "zeroshot_classification",
    prefix: str = "",
) -> Result:
    """Compute the metrics of predictions."""
    n, width = len(predictions), min(max(MAX_GUESSES, *ks), len(names))
    labels = torch.tensor([p.label for p in predictions], dtype=torch.long)
    guesses = torch.tensor(
        [(*p.guesses, *(-1,) * width)[:width] for p in predictions], dtype=torch.long
    ).reshape(n, width)
    counts = torch.bincount(labels, minlength=len(names))
    right = torch.bincount(labels[guesses[:, 0] == labels], minlength=len(names))
    accuracy = {f"{prefix}acc{k}": topk_accuracy(guesses, labels, k) for k in ks}
    recall = f"{prefix}mean_per_class_recall"
    return Result(
        task=task,
        metrics={**accuracy, recall: mean_per_class_recall(right, counts)},
        n=n,
        ci95={
            **{
                name: None if value is None else wilson_interval(value * n, n)
                for name, value in accuracy.items()
            },
            recall: mean_recall_interval(right, counts),
        },
        chance=min(1.0, ks[0] / len(names)),
        classnames=tuple(names),
        per_class=tuple(map(_score, names, counts.tolist(), right.tolist())),
        confusions=tuple(
            Confusion(label=names[label], predicted=names[guess], n=count)
            for label, guess, count in top_confusions(labels.tolist(), guesses[:, 0].tolist())
        ),
        warnings=tuple(_diagnose(guesses, names)),
        predictions=tuple(predictions),
    )


def _score(name: str, n: int, correct: int) -> ClassScore:
    return ClassScore(name=name, n=n, correct=correct, accuracy=correct / n if n else None)


def _diagnose(guesses: Tensor, names: Sequence[str]) -> Iterator[str]:
    """Yield warnings about suspicious results."""
    if len(guesses) == 0:
        yield "no sample could be used, so there is no number"
        return
    if len(names) == 1:
        yield "there is one class, so every prediction is right"
    invalid = int((guesses[:, 0] < 0).sum())
    if invalid:
        yield count_noun(
            invalid,
            "sample has an embedding that is not finite; it counts as wrong",
            "samples have embeddings that are not finite; they count as wrong",
        )
    first = int(guesses[0, 0])
    if len(guesses) > 1 and len(names) > 1 and first >= 0 and bool((guesses[:, 0] == first).all()):
        yield f"every prediction is {names[first]!r}; the model does not distinguish the images"

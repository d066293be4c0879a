"""The protocol of a task: rows from each batch, and one result from all rows.

Legend: B batch, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from clip_eval.encoding.batches import ImageBatch, LoadedSample
from clip_eval.errors import EvaluationError
from clip_eval.results.result import Result


class RowMaker(Protocol):
    """What makes rows of batches.

    Rows are plain picklable values, so that ranks can exchange them; the result is a function of
    all rows in the order of the source.
    """

    def rows(self, batch: ImageBatch, features: Tensor, /) -> list[Any]:
        """Return the rows of a batch with features (B, D)."""


class Task(RowMaker, Protocol):
    """The task of one model."""

    def result(self, rows: Sequence[Any], /) -> Result:
        """Return the metrics; the caller fills in what all tasks have in common."""


def check_directions(names: Sequence[str], classifier: Tensor) -> None:
    """Refuse class directions (C, D) that are not finite: they would spoil the scores of any image.

    Raises:
        EvaluationError: Some are not finite; the message names the first class.
    """
    finite = classifier.isfinite().all(dim=1).tolist()
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    if bad:
        raise EvaluationError(
            f"the text embeddings of {len(bad)} of {len(names)} classes are not finite, such as "
            f"those of {bad[0]!r}; check the model's text tower, and its prompts for that class"
        )


def require_label(sample: LoadedSample, n_classes: int) -> int:
    """Return the label of a sample.

    Raises:
        EvaluationError: The sample has no label, or one without a class name.
    """
    if sample.label is None:
        raise EvaluationError(
            f"{sample.key} has no label; classification needs class folders or .cls files"
        )
    if not 0 <= sample.label < n_classes:
        raise EvaluationError(
            f"{sample.key} has label {sample.label}, but there are {n_classes} class names "
            f"(labels 0 to {n_classes - 1}); check the class list"
        )
    return sample.label

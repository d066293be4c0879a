"""What a task is: rows as batches come in, and one result from all rows.  B batch, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from clip_eval.encoding.batches import ImageBatch, LoadedSample
from clip_eval.errors import EvaluationError
from clip_eval.results.result import Result


class Task(Protocol):
    """One model's part of an evaluation.

    Rows are plain picklable values, so that several processes can make them; the result is a
    function of all rows in the order of the source.
    """

    def rows(self, batch: ImageBatch, features: Tensor, /) -> list[Any]:
        """What to keep of a batch with features (B, D)."""

    def result(self, rows: Sequence[Any], /) -> Result:
        """The metrics; what all tasks have in common is filled in by the caller."""


def check_directions(names: Sequence[str], classifier: Tensor) -> None:
    """Refuse class directions (C, D) that are not finite: they would spoil every image's scores.

    Raises:
        EvaluationError: Some are not; the message names the first class.
    """
    finite = classifier.isfinite().all(dim=1).tolist()
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    if bad:
        raise EvaluationError(
            f"the text embeddings of {len(bad)} of {len(names)} classes are not finite, such as "
            f"those of {bad[0]!r}; check the model's text tower, and its prompts for that class"
        )


def checked_label(sample: LoadedSample, n_classes: int) -> int:
    """The label of a sample.

    Raises:
        EvaluationError: It has none, or one that no class name stands for.
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

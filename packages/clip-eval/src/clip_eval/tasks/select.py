"""Which caption fits an image, which image a caption: Winoground, SugarCrepe and their like.

Neighbouring samples with the same captions are one group.  Image number i of a group belongs to
its caption number i, or to the one that its label names.  I images, T captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clip_eval.encoder import Encoder
from clip_eval.faults import EvaluationError
from clip_eval.loading import ImageBatch
from clip_eval.metrics import selection_correct, wilson_interval
from clip_eval.results import Result


class CandidateImage(NamedTuple):
    """An image, its captions, the number of the right one, and its score for each (T,)."""

    key: str
    captions: tuple[str, ...]
    label: int | None
    scores: NDArray[np.float32]


class Select:
    """Choice among the captions of a group, and among its images."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def rows(self, batch: ImageBatch, features: Tensor) -> list[CandidateImage]:
        """Similarity of each image to each of its captions."""
        found = []
        for sample, image in zip(batch.samples, features, strict=True):
            if len(sample.captions) < 2:
                raise EvaluationError(
                    f"{sample.key} has {len(sample.captions)} captions; a choice needs two or more"
                )
            texts = self.encoder.texts(sample.captions)  # (T, D)
            scores = (texts @ image).cpu().numpy()
            found.append(CandidateImage(sample.key, sample.captions, sample.label, scores))
        return found

    def result(self, rows: Sequence[CandidateImage]) -> Result:
        """Share of groups with every caption right, every image right, both."""
        records = []
        for _, members in groupby(rows, key=lambda row: row.captions):
            group = list(members)
            scores = np.stack([row.scores for row in group])  # (I, T)
            image, text = selection_correct(scores, _truth(group))
            records.append(
                {
                    "key": group[0].key,
                    "captions": list(group[0].captions),
                    "image_correct": image,
                    "text_correct": text,
                    "correct": image and text,
                }
            )
        n = len(records)
        names = {"image_acc": "image_correct", "text_acc": "text_correct", "acc": "correct"}
        right = {name: sum(bool(r[field]) for r in records) for name, field in names.items()}
        return Result(
            task="image_caption_selection",
            metrics={name: hits / n if n else None for name, hits in right.items()},
            n=n,
            ci95={name: wilson_interval(hits, n) for name, hits in right.items()},
            records=tuple(records),
            warnings=() if n else ("no sample could be used, so there is no number",),
        )


def _truth(group: Sequence[CandidateImage]) -> list[int]:
    """The right caption of each image of a group."""
    captions = len(group[0].captions)
    truth = [n if row.label is None else row.label for n, row in enumerate(group)]
    for row, right in zip(group, truth, strict=True):
        if not 0 <= right < captions:
            raise EvaluationError(
                f"{row.key}: its right caption is number {right}, but the group has {captions}"
            )
    return truth

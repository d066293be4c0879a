"""Selection among captions, and among images: Winoground, SugarCrepe and similar data.

Consecutive samples with the same captions are one group. Image number i of a group belongs to
caption number i, or to the caption that its label names.

Legend: I images, T captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clip_eval.encoding.batches import ImageBatch
from clip_eval.encoding.encoder import Encoder
from clip_eval.errors import EvaluationError
from clip_eval.metrics.functions import selection_correct, wilson_interval
from clip_eval.plurals import count_noun
from clip_eval.results.result import Result


class CandidateImage(NamedTuple):
    """An image, its captions, the number of the right caption, and the score of each (T,)."""

    key: str
    captions: tuple[str, ...]
    label: int | None
    scores: NDArray[np.float32]


SKIPPED = CandidateImage("", (), None, np.zeros(0, dtype=np.float32))
"""Placeholder of a skipped sample: a group beside it may lack an image."""


class Selection:
    """Selection of the right caption for each image of a group, and of the right image.

    A group beside a skipped sample is left out unless its images have labels: their numbers are
    unknown.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def rows(self, batch: ImageBatch, features: Tensor) -> list[CandidateImage]:
        """Return the similarity of each image to each of its captions."""
        found: list[CandidateImage] = []
        for place, sample, image in zip(batch.places, batch.samples, features, strict=True):
            found += [SKIPPED] * (place - len(found))
            if len(sample.captions) < 2:
                captions = count_noun(len(sample.captions), "caption")
                raise EvaluationError(f"{sample.key} has {captions}; select needs two or more")
            texts = self.encoder.encode_texts(sample.captions)  # (T, D)
            scores = (texts @ image).cpu().numpy()
            found.append(CandidateImage(sample.key, sample.captions, sample.label, scores))
        return found + [SKIPPED] * (len(batch.contents) - len(found))

    def result(self, rows: Sequence[CandidateImage]) -> Result:
        """Return the shares of groups with all captions right, all images right, and both."""
        records: list[dict[str, Any]] = []
        left_out = 0
        groups = [list(group) for _, group in groupby(rows, key=lambda row: row.captions)]
        for place, group in enumerate(groups):
            if not group[0].captions:
                continue
            beside = [*groups[max(0, place - 1) : place], *groups[place + 1 : place + 2]]
            lost = any(not other[0].captions for other in beside)
            if lost and any(row.label is None for row in group):
                left_out += 1
                continue
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
        repeated = sum(len(set(record["captions"])) < len(record["captions"]) for record in records)
        names = {"image_acc": "image_correct", "text_acc": "text_correct", "acc": "correct"}
        right = {name: sum(bool(r[field]) for r in records) for name, field in names.items()}
        return Result(
            task="image_caption_selection",
            metrics={name: hits / n if n else None for name, hits in right.items()},
            n=n,
            ci95={name: wilson_interval(hits, n) for name, hits in right.items()},
            records=tuple(records),
            warnings=tuple(_diagnose(n, left_out, repeated)),
        )


def _diagnose(n: int, left_out: int, repeated: int) -> Iterator[str]:
    if not n:
        yield "no sample could be used, so there is no number"
    if left_out:
        groups = count_noun(left_out, "group", "groups")
        yield (
            f"{groups} beside skipped samples left out: which caption belongs to which of their "
            "images is unknown"
        )
    if repeated:
        yield count_noun(
            repeated,
            "group has the same caption twice, so that no answer can be right",
            "groups have the same caption twice, so that no answer can be right",
        )


def _truth(group: Sequence[CandidateImage]) -> list[int]:
    """Return the right caption of each image of a group."""
    captions = len(group[0].captions)
    truth = [n if row.label is None else row.label for n, row in enumerate(group)]
    for row, right in zip(group, truth, strict=True):
        if not 0 <= right < captions:
            raise EvaluationError(
                f"{row.key}: its right caption is number {right}, but the group has {captions}"
            )
    return truth

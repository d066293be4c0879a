"""The best of some labels for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clip_eval.data.class_names import ClassList
from clip_eval.data.samples import Source
from clip_eval.data.templates import ClassPrompts, Templates
from clip_eval.encoding.batches import LoaderConfig
from clip_eval.encoding.embed import embed_images
from clip_eval.encoding.encoder import Encoder
from clip_eval.models.protocols import evaluation_mode
from clip_eval.results.result import Skipped
from clip_eval.tasks.guesses import guess_classes


@dataclass(frozen=True, kw_only=True)
class LabeledImage:
    """An image with its best labels, best first.

    Attributes:
        index: Position in the source.
        key: Name in the source.
        labels: The labels; empty if the embedding was not finite.
        probabilities: Softmax over all labels, at the best ones.
    """

    index: int
    key: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for one line of JSON."""
        shares = [round(share, 6) for share in self.probabilities]
        return {"image": self.key, "labels": list(self.labels), "probabilities": shares}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Labeled images, and skipped ones."""

    images: tuple[LabeledImage, ...]
    skipped: tuple[Skipped, ...]


def predict(
    encoder: Encoder, source: Source, labels: Sequence[str], *, templates: Templates, top: int = 5
) -> Predictions:
    """Find the best labels of every image of a source.

    Args:
        encoder: The model.
        source: The images.
        labels: The labels to choose from.
        templates: Caption templates with `{c}`; `{c}` alone takes labels as captions.
        top: Number of labels per image.
    """
    names = ClassList.of(labels).names
    with evaluation_mode(encoder.model):
        classifier = encoder.encode_groups(ClassPrompts(names, templates))
    images: list[LabeledImage] = []
    skipped: list[Skipped] = []
    loader = LoaderConfig(batch_size=encoder.batch_size)
    for batch, (features,) in embed_images([encoder], source, loader):
        skipped += batch.skipped
        if not batch.samples:
            continue
        guesses = guess_classes(features, classifier, scale=encoder.scale, limit=top)
        for row, sample in enumerate(batch.samples):
            classes, probabilities = guesses.row(row)
            best = tuple(names[c] for c in classes)
            images.append(
                LabeledImage(
                    index=sample.index, key=sample.key, labels=best, probabilities=probabilities
                )
            )
    return Predictions(images=tuple(images), skipped=tuple(skipped))

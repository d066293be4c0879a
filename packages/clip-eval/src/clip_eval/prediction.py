"""Which of some labels fit an image best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from clip_eval.data.class_names import ClassList
from clip_eval.data.faults import BadSample
from clip_eval.data.images import decode_image
from clip_eval.data.samples import Source
from clip_eval.data.templates import PromptsOfClasses, Templates
from clip_eval.encoding.embed import Reading, embed_images
from clip_eval.encoding.encoder import Encoder
from clip_eval.models.classifier import ImagePreprocess, ImageTextModel, TextTokenizer
from clip_eval.report.page import guess_bar, page
from clip_eval.report.sample_pictures import SMALL, picture_address
from clip_eval.report.table import display_width, percent
from clip_eval.results.result import Skipped
from clip_eval.tasks.classification import evaluation_mode, guess_classes


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image with its best labels, best first.

    Attributes:
        index: Its position in the source.
        key: Its name there.
        labels: The labels; empty if the embedding was not finite.
        probabilities: Softmax over all labels, of these.
    """

    index: int
    key: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for one line of JSON."""
        shares = [round(share, 6) for share in self.probabilities]
        return {"image": self.key, "labels": list(self.labels), "probabilities": shares}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Labelled images, and those that could not be used."""

    images: tuple[LabelledImage, ...]
    skipped: tuple[Skipped, ...]


def predict(
    model: ImageTextModel,
    source: Source,
    labels: Sequence[str],
    *,
    tokenizer: TextTokenizer,
    preprocess: ImagePreprocess,
    templates: Templates,
    top: int = 5,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> Predictions:
    """The best labels of every image of a source, which needs no labels of its own.

    Args:
        model: Two towers and a logit scale; on ``device``.
        source: The images.
        labels: What to choose from.
        tokenizer: Texts → token ids.
        preprocess: RGB image → uint8 pixels, and their normalisation.
        templates: Caption templates with ``{c}``; ``{c}`` alone takes labels as captions.
        top: How many labels per image.
        batch_size: Images, and prompts, per forward.
        device: Where the forward runs.
    """
    names = ClassList.of(labels).names
    encoder = Encoder(model, tokenizer, preprocess, device=device, batch_size=batch_size)
    with evaluation_mode(model):
        classifier = encoder.groups(PromptsOfClasses(names, templates))
    images: list[LabelledImage] = []
    skipped: list[Skipped] = []
    reading = Reading(batch_size=batch_size)
    for batch, (features,) in embed_images([encoder], source, reading):
        skipped += batch.skipped
        if not batch.samples:
            continue
        guesses = guess_classes(features, classifier, scale=encoder.scale, limit=top)
        for row, sample in enumerate(batch.samples):
            classes, probabilities = guesses.row(row)
            best = tuple(names[c] for c in classes)
            images.append(
                LabelledImage(
                    index=sample.index, key=sample.key, labels=best, probabilities=probabilities
                )
            )
    return Predictions(images=tuple(images), skipped=tuple(skipped))


def format_predictions(predictions: Predictions) -> str:
    """One block of lines per image, with bars."""
    lines: list[str] = []
    for image in predictions.images:
        lines.append(image.key)
        width = max((display_width(label) for label in image.labels), default=0)
        for label, share in zip(image.labels, image.probabilities, strict=True):
            space = " " * (width - display_width(label))
            bar = "█" * round(30 * share)
            lines.append(f"  {label}{space}  {percent(share):>7}  {bar}".rstrip())
        if not image.labels:
            lines.append("  the embedding is not finite")
    lines += [f"skipped: {s.key}: {s.reason}: {s.detail}" for s in predictions.skipped]
    return "\n".join(lines)


def render_predictions(predictions: Predictions, source: Source, title: str) -> str:
    """The images with their labels as one page that needs no other file."""
    cards = "".join(_card(image, source) for image in predictions.images)
    return page(title, [f"<h1>{escape(title)}</h1>", f'<div class="samples">{cards}</div>'])


def _card(image: LabelledImage, source: Source) -> str:
    try:
        picture = decode_image(source.read(image.index).image)
    except BadSample:
        return ""
    small = ' class="small"' if max(picture.size) <= SMALL else ""
    guesses: Iterator[str] = (
        guess_bar(label, share, rank == 0)
        for rank, (label, share) in enumerate(zip(image.labels, image.probabilities, strict=True))
    )
    return (
        f'<div class="card sample"><img{small} src="{picture_address(picture)}" '
        f'alt="{escape(image.key)}"><div><div class="truth"><span>{escape(image.key)}</span>'
        f"</div>{''.join(guesses)}</div></div>"
    )

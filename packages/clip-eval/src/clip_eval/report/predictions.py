"""Labeled images as text and as a page."""

from __future__ import annotations

from typing import NamedTuple

from clip_eval.data.faults import BadSample
from clip_eval.data.images import decode_image
from clip_eval.data.samples import Source
from clip_eval.data.text_width import display_width, pad
from clip_eval.report.rendering import render_page
from clip_eval.report.sample_pictures import SMALL, picture_address
from clip_eval.report.table import percent
from clip_eval.tasks.prediction import LabeledImage, Predictions


def format_predictions(predictions: Predictions) -> str:
    """Format a block of lines per image, with bars."""
    lines: list[str] = []
    for image in predictions.images:
        lines.append(image.key)
        width = max((display_width(label) for label in image.labels), default=0)
        for label, share in zip(image.labels, image.probabilities, strict=True):
            bar = "█" * round(30 * share)
            lines.append(f"  {pad(label, width)}  {percent(share):>7}  {bar}".rstrip())
        if not image.labels:
            lines.append("  the embedding is not finite")
    lines += [f"skipped: {s.key}: {s.reason}: {s.detail}" for s in predictions.skipped]
    return "\n".join(lines)


def render_predictions(predictions: Predictions, source: Source, title: str) -> str:
    """Render the images with their labels as one page that needs no other file."""
    cards = [card for card in (_view_card(image, source) for image in predictions.images) if card]
    return render_page("predictions.html.j2", title=title, cards=cards)


class Card(NamedTuple):
    """An image with its labels, best first, and their probabilities."""

    key: str
    address: str
    is_small: bool
    guesses: list[tuple[str, float]]


def _view_card(image: LabeledImage, source: Source) -> Card | None:
    try:
        data = source.read(image.index).image
        picture = decode_image(data, exif_orientation=source.exif_orientation)
    except BadSample:
        return None
    guesses = list(zip(image.labels, image.probabilities, strict=True))
    return Card(image.key, picture_address(picture), max(picture.size) <= SMALL, guesses)

"""Labeled images as text and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from clip_eval.data.faults import BadSample
from clip_eval.data.images import decode_image
from clip_eval.data.samples import Source
from clip_eval.report.result_page import guess_bar, page
from clip_eval.report.sample_pictures import SMALL, picture_address
from clip_eval.report.table import display_width, percent
from clip_eval.tasks.prediction import LabeledImage, Predictions


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


def _card(image: LabeledImage, source: Source) -> str:
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

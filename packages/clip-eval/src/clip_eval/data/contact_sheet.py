"""A page of thumbnails with their captions, complete in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import jinja2
from PIL import Image

from clip_eval.data.samples import Sample

THUMBNAIL = 160  # pixels of the longer side
MAX_CAPTIONS = 5
MAX_FAULTS = 200


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A sample with its thumbnail.

    Attributes:
        key: Key of the sample.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        captions: Captions of the sample.
        address: The thumbnail as a `data:` URL.
    """

    key: str
    width: int
    height: int
    captions: tuple[str, ...]
    address: str


def make_picture(sample: Sample, image: Image.Image) -> Picture:
    """The sample with a thumbnail of its decoded image."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return Picture(
        key=sample.key,
        width=image.width,
        height=image.height,
        captions=sample.captions,
        address="data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode(),
    )


def render_contact_sheet(
    title: str,
    rows: Sequence[tuple[str, str]],
    pictures: Sequence[Picture],
    faults: Sequence[str],
) -> str:
    """The page as HTML.

    Args:
        title: Heading of the page.
        rows: Names and values of the table above the pictures.
        pictures: The pictures.
        faults: What is wrong with the data, one line each.
    """
    text = files("clip_eval.data").joinpath("contact_sheet.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text).render(
        title=title,
        rows=rows,
        pictures=pictures,
        faults=faults[:MAX_FAULTS],
        max_captions=MAX_CAPTIONS,
    )

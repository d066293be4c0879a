"""Small pictures of embedded images, which are kept beside the embeddings."""

from __future__ import annotations

import io
from collections.abc import Sequence

from tqdm import tqdm

from clip_eval.data.faults import BadSample
from clip_eval.data.images import decode_image
from clip_eval.data.samples import Source

QUALITY = 80


def make_thumbnails(
    source: Source, indices: Sequence[int], side: int, *, progress: bool = False
) -> list[bytes]:
    """Make a JPEG of each sample, at most `side` pixels wide and high.

    A JPEG file is decoded at an eighth of its size where that is enough. A sample that cannot be
    read any more gets no bytes.
    """
    bar = tqdm(indices, unit="img", desc="thumbnails", disable=not progress)
    return [_make_thumbnail(source, index, side) for index in bar]


def _make_thumbnail(source: Source, index: int, side: int) -> bytes:
    def least_size(width: int, height: int) -> tuple[int, int]:
        share = min(1.0, side / max(width, height))
        return max(1, round(width * share)), max(1, round(height * share))

    try:
        image = decode_image(
            source.read(index).image,
            least_size=least_size,
            exif_orientation=source.exif_orientation,
        )
    except BadSample:
        return b""
    image.thumbnail((side, side))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()

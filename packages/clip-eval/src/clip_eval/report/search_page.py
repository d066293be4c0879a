"""What a search found, as text, as records and as a page with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from clip_eval.data.faults import BadSample
from clip_eval.data.images import decode_image
from clip_eval.report.rendering import render_page
from clip_eval.report.sample_pictures import picture_address
from clip_eval.search.image_search import ImageSearch, Match


class FoundImage(NamedTuple):
    """An image on a page: its place, its name, its score, and a `data:` address or nothing."""

    place: int
    key: str
    score: float
    address: str


class QueryView(NamedTuple):
    """A query on a page: its words or the name of its file, its picture or nothing, its matches."""

    name: str
    address: str
    found: Sequence[FoundImage]


def format_matches(name: str, matches: Sequence[Match]) -> str:
    """Format a query and a line per match: place, score, name."""
    lines = [f"{n:>4}  {match.score:6.3f}  {match.key}" for n, match in enumerate(matches, start=1)]
    return "\n".join([name, *lines])


def match_record(name: str, matches: Sequence[Match]) -> dict[str, Any]:
    """Return plain values for one line of JSON."""
    found = [{"key": match.key, "score": round(match.score, 6)} for match in matches]
    return {"query": name, "found": found}


def render_matches(
    search: ImageSearch,
    found: Sequence[tuple[str, bytes, Sequence[Match]]],
    *,
    title: str,
) -> str:
    """Render one page that needs no other file.

    Args:
        search: Its embeddings hold the thumbnails; no file that they name is opened.
        found: For each query its name, its image (empty for words), and its matches.
        title: Title of the page.
    """
    pictures = search.embeddings.thumbnails
    views = [
        QueryView(
            name,
            _address(image, exif_orientation=search.embeddings.exif_orientation),
            [
                FoundImage(
                    n, match.key, match.score, _address(pictures[match.number]) if pictures else ""
                )
                for n, match in enumerate(matches, start=1)
            ],
        )
        for name, image, matches in found
    ]
    return render_page("search.html.j2", title=title, queries=views, n=len(search))


def _address(data: bytes, *, exif_orientation: bool = False) -> str:
    """Decode an image and encode it again, so that a page holds nothing but a picture."""
    try:
        image = decode_image(data, exif_orientation=exif_orientation) if data else None
        return "" if image is None else picture_address(image)
    except BadSample:
        return ""

"""Queries of a retrieval with the pictures of what they found, right and wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clip_eval.data.faults import BadSample
from clip_eval.data.images import decode_image
from clip_eval.data.samples import Source
from clip_eval.report.sample_pictures import picture_address

SHOWN_CAPTIONS = 5


class FoundItem(NamedTuple):
    """A found image (with its `data:` address, or none) or caption: score, and whether right."""

    name: str
    address: str
    score: float
    is_right: bool


class QueryCard(NamedTuple):
    """A query, what it found, and what it should have found.

    Attributes:
        name: The caption, or the name of the image.
        address: The image as a `data:` address; empty for a caption.
        place: Place of the best right answer, from 1.
        is_right: Whether it came first.
        found: The first answers.
        wanted: The right answers, where none of them is among the first.
    """

    name: str
    address: str
    place: int
    is_right: bool
    found: Sequence[FoundItem]
    wanted: Sequence[FoundItem]


class QueryGroup(NamedTuple):
    """Queries of one direction and verdict, and how many there are in all."""

    name: str
    cards: Sequence[QueryCard]
    total: int


class QueryPictures:
    """Makes the cards of queries; an image that does not exist any more is left out.

    Args:
        source: The data of the retrieval.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._addresses: dict[int, tuple[str, str]] = {}

    def groups(
        self, records: Sequence[Mapping[str, Any]], count: int, seed: int
    ) -> list[QueryGroup]:
        """Choose up to `count` queries by the seed, half of each direction, and half wrong."""
        texts = [record for record in records if "caption" in record and "found" in record]
        images = [record for record in records if "captions" in record and "found" in record]
        groups = []
        for name, queries in (("Captions to images", texts), ("Images to captions", images)):
            for verdict, chosen, total in _choose(queries, count // 2, seed):
                cards = [card for card in map(self._card, chosen) if card is not None]
                if cards:
                    groups.append(QueryGroup(f"{name}, {verdict}", cards, total))
        return groups

    def _card(self, record: Mapping[str, Any]) -> QueryCard | None:
        """Make the card of a query; None if its image has changed, or its record is no such one."""
        try:
            is_text = "caption" in record
            found = tuple(map(self._found, record["found"]))
            address = "" if is_text else self._address(record["index"], record["image"])
            if not is_text and not address:
                return None
            wanted: tuple[FoundItem, ...] = ()
            if not any(item.is_right for item in found):
                wanted = self._wanted(record)
            name = str(record["caption"] if is_text else record["image"])
            place = int(record["rank"]) + 1
            return QueryCard(name, address, place, bool(record["correct"]), found, wanted)
        except (AttributeError, LookupError, TypeError, ValueError):
            return None

    def _found(self, item: Mapping[str, Any]) -> FoundItem:
        score, is_right = float(item["score"]), bool(item["correct"])
        if "caption" in item:
            return FoundItem(str(item["caption"]), "", score, is_right)
        name = str(item["image"])
        return FoundItem(name, self._address(item["index"], name), score, is_right)

    def _wanted(self, record: Mapping[str, Any]) -> tuple[FoundItem, ...]:
        if "caption" not in record:
            captions = record["captions"][:SHOWN_CAPTIONS]
            return tuple(FoundItem(str(caption), "", 0.0, True) for caption in captions)
        index = record["images"][0]
        return (FoundItem("", self._address(index), 0.0, True),)

    def _address(self, index: int, key: str | None = None) -> str:
        """Return the image of a sample as an address; empty if it has another name by now."""
        if not isinstance(index, int) or not 0 <= index < len(self.source):
            return ""
        if index not in self._addresses:
            self._addresses[index] = self._read(index)
        name, address = self._addresses[index]
        return address if key is None or key == name else ""

    def _read(self, index: int) -> tuple[str, str]:
        try:
            sample = self.source.read(index)
            upright = self.source.exif_orientation
            image = decode_image(sample.image, exif_orientation=upright)
            return sample.key, picture_address(image)
        except (BadSample, IndexError):
            return "", ""


def _choose(
    queries: Sequence[Mapping[str, Any]], count: int, seed: int
) -> list[tuple[str, list[Mapping[str, Any]], int]]:
    """Choose queries of both verdicts: their name, the chosen ones, and how many there are."""
    draw = random.Random(seed)
    wrong = [query for query in queries if not query.get("correct")]
    right = [query for query in queries if query.get("correct")]
    n_wrong = min(len(wrong), max(count // 2, count - len(right)))
    n_right = min(len(right), count - n_wrong)
    return [
        ("wrong", draw.sample(wrong, n_wrong), len(wrong)),
        ("right", draw.sample(right, n_right), len(right)),
    ]

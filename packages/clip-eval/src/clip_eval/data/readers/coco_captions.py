"""COCO captions: one JSON file of images and captions, and a directory of images.

Also the single file of Karpathy and Fei-Fei's splits (`images` with `sentences`), which exists
for COCO, Flickr30k and Flickr8k.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clip_eval.data.faults import DataError, Fault
from clip_eval.data.samples import ImagePaths
from clip_eval.data.splits import TRAIN, resolve_split, role_of, split_of_file, warn_of_split
from clip_eval.data.templates import choose_templates
from clip_eval.data.text_files import read_json

RESTVAL = "restval"  # Karpathy's name for what COCO's validation set has beside his own splits


class CocoCaptions(ImagePaths):
    """Images with all their captions, in the order of the file.

    Args:
        path: The JSON file.
        image_root: Directory of the images; found in the common layouts if None.
        split: For a file with several splits, which one, or several joined by `+`, such as
            `train+restval`.
        default_split: `train` for the split that training reads, instead of evaluation's.
        templates: Templates for prompts; captions come with the file.

    Raises:
        DataError: No such file, another layout, or the directory of images is not found.
    """

    kind = "coco"

    def __init__(
        self,
        path: str | Path,
        *,
        image_root: str | Path | None = None,
        split: str | None = None,
        default_split: str | None = None,
        templates: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.templates = choose_templates(templates)
        content = read_json(self.path)
        if isinstance(content, list) and content and isinstance(content[0], dict):
            raise DataError(f"{path}: a list of objects; read it as jsonl:{path}")
        try:
            if _has_sentences(content):
                rows = self._choose_rows(content["images"], split, default_split)
            else:
                rows = _read_coco(content)
                self.split = _split_of(self.path, split) or None
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: expected COCO's `images` (id, file_name) and `annotations` (image_id, "
                f"caption), or `images` with `sentences`; found no {str(error)[:200]}"
            ) from error
        if not all(isinstance(name, str) for name, _ in rows.images):
            raise DataError(f"{path}: expected texts as names of images")
        chosen = self.split if self.splits or split else ""
        self.name = "/".join(filter(None, (self.path.stem, chosen)))
        if not rows.images:
            raise DataError(f"{path}: no images in it")
        self.faults = tuple(
            Fault(where=self.path.name, reason="bad-row", detail=detail) for detail in rows.faults
        )
        self.paths = [name for name, _ in rows.images]
        self.captions = [captions for _, captions in rows.images]
        self.image_root = Path(image_root) if image_root else _guess_root(self.path, self.paths)

    def _choose_rows(
        self, images: list[Any], split: str | None, default_split: str | None
    ) -> _Rows:
        """The rows of the splits that were asked for, or of the default one."""
        available = dict.fromkeys(image.get("split") or "" for image in images)
        chosen = [
            resolve_split(available, part, default_split=default_split, where=self.path)
            for part in (split.split("+") if split else (None,))
        ]
        self.split = "+".join(chosen) or None
        self.splits = tuple(sorted(filter(None, available)))
        self.warnings = warn_of_split(
            chosen[0], available, asked=split, default_split=default_split
        )
        if split is None and chosen == [TRAIN] and RESTVAL in available:
            self.warnings += (
                f"split {RESTVAL!r} is not read; the usual training set of COCO with it is the "
                f"split {TRAIN}+{RESTVAL}",
            )
        return _read_karpathy([i for i in images if (i.get("split") or "") in chosen])


class _Rows(NamedTuple):
    """Path and captions of each image, and a line for each row that cannot be used."""

    images: list[tuple[str, tuple[str, ...]]]
    faults: list[str]


def _has_sentences(content: Any) -> bool:
    images = content.get("images", ()) if isinstance(content, dict) else ()
    first = next(iter(images), None) if isinstance(images, list) else None
    return isinstance(first, dict) and "sentences" in first


def _split_of(path: Path, split: str | None) -> str:
    """The split that the name of a file tells: `captions_val2017`."""
    found = split_of_file(path.stem)
    if split is not None and (not found or role_of(found) != role_of(split)):
        raise DataError(f"{path}: it has no splits; give the file of the split")
    return found


def _read_coco(content: Any) -> _Rows:
    captions: dict[Any, list[str]] = {}
    rows = _Rows([], [])
    for number, annotation in enumerate(content["annotations"]):
        text = _text_of(annotation, "caption", f"annotation {number}", rows.faults)
        captions.setdefault(annotation["image_id"], []).append(text)
    for image in content["images"]:
        own = tuple(filter(None, captions.get(image["id"], ())))
        rows.images.append((image["file_name"], own))
    return rows


def _read_karpathy(images: list[Any]) -> _Rows:
    rows = _Rows([], [])
    for image in images:
        path = "/".join(filter(None, (image.get("filepath", ""), image["filename"])))
        texts = [_text_of(sentence, "raw", path, rows.faults) for sentence in image["sentences"]]
        rows.images.append((path, tuple(filter(None, texts))))
    return rows


def _text_of(record: dict[str, Any], key: str, where: str, faults: list[str]) -> str:
    """A caption; empty, and a fault, if it is no text."""
    text = record[key]
    if isinstance(text, str):
        return text.strip()
    faults.append(f"{where}: its {key} is {text!r}, not a text, and is left out")
    return ""


def _guess_root(path: Path, names: list[str]) -> Path:
    """The first directory of the common layouts that holds one of the first images."""
    here, above = path.parent, path.parent.parent
    year = path.stem.rpartition("_")[2]  # captions_val2017 -> val2017
    places = [
        *(here, here / "images", here / year, above / year, above / "images" / year),
        *(above / "images", above),
    ]
    for place in places:
        if any((place / name).is_file() for name in names[:10]):
            return place
    tried = ", ".join(dict.fromkeys(str(place) for place in places))
    raise DataError(f"{path}: {names[0]} is in none of {tried}; give the directory of the images")

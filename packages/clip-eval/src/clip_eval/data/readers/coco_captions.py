"""COCO captions: one JSON file of images and captions, and a directory of images.

Also the single file of Karpathy and Fei-Fei's splits (`images` with `sentences`), which exists
for COCO, Flickr30k and Flickr8k.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_eval.data.faults import DataError
from clip_eval.data.samples import ImagePaths
from clip_eval.data.templates import choose_templates
from clip_eval.data.text_files import read_json


class CocoCaptions(ImagePaths):
    """Images with all their captions, in the order of the file.

    Args:
        path: The JSON file.
        image_root: Directory of the images; found in the common layouts if None.
        split: For a file with several splits, which one; all if None.
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
        templates: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = "/".join(part for part in (self.path.stem, split) if part)
        self.split = split
        self.templates = choose_templates(templates)
        content = read_json(self.path)
        try:
            rows = (
                _read_karpathy(content, split, path)
                if _has_sentences(content)
                else _read_coco(content)
            )
            _check_rows(rows)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: expected COCO's `images` (id, file_name) and `annotations` (image_id, "
                f"caption), or `images` with `sentences`; found no {str(error)[:200]}"
            ) from error
        if split is not None and not _has_sentences(content):
            raise DataError(f"{path}: it has no splits; give the file of the split")
        if not rows:
            raise DataError(f"{path}: no images in it")
        self.paths = [name for name, _ in rows]
        self.captions = [captions for _, captions in rows]
        self.image_root = Path(image_root) if image_root else _guess_root(self.path, self.paths)


Rows = list[tuple[str, tuple[str, ...]]]


def _check_rows(rows: Rows) -> None:
    """Check that names and captions are texts.

    Raises:
        TypeError: One is something else.
    """
    for name, captions in rows:
        for text in (name, *captions):
            if not isinstance(text, str):
                raise TypeError(f"text but {text!r:.60}")


def _has_sentences(content: Any) -> bool:
    images = content.get("images", ()) if isinstance(content, dict) else ()
    first = next(iter(images), None) if isinstance(images, list) else None
    return isinstance(first, dict) and "sentences" in first


def _read_coco(content: Any) -> Rows:
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"].strip())
    return [
        (image["file_name"], tuple(filter(None, captions.get(image["id"], ()))))
        for image in content["images"]
    ]


def _read_karpathy(content: Any, split: str | None, path: str | Path) -> Rows:
    images = content["images"]
    splits = sorted({image.get("split", "") for image in images})
    if split is not None and split not in splits:
        raise DataError(f"{path}: no split {split!r}; there are {', '.join(splits)}")
    return [
        (
            "/".join(part for part in (image.get("filepath", ""), image["filename"]) if part),
            tuple(filter(None, (sentence["raw"].strip() for sentence in image["sentences"]))),
        )
        for image in images
        if split is None or image.get("split") == split
    ]


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

"""One way in: a data set from a short text such as ``imagefolder:photos/val``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_eval.data.class_names import ClassList
from clip_eval.data.coco_captions import CocoCaptions
from clip_eval.data.corenet_tars import CoreNetTars
from clip_eval.data.csv_table import CsvTable
from clip_eval.data.faults import DataError
from clip_eval.data.image_folder import ImageFolder, holds_images
from clip_eval.data.parquet_table import ParquetTable
from clip_eval.data.samples import Source
from clip_eval.data.shards.files import ShardCache, check_url, is_url, refuse_command
from clip_eval.data.shards.tfrecord import TFRecordSource
from clip_eval.data.shards.webdataset import WebDataset
from clip_eval.data.torchvision_sets import SETS, TorchvisionSet

FORMS = (
    "imagefolder:DIR",
    "wds:DIR-OR-PATTERN-OR-URL",
    "csv:FILE",
    "parquet:FILE-OR-DIR",
    "coco:JSON",
    "tfrecord:DIR-OR-PATTERN",
    "corenet:DIR",
    "cifar10[:ROOT]",
    "cifar100[:ROOT]",
)
KINDS = ("imagefolder", "wds", "csv", "parquet", "coco", "tfrecord", "corenet", *SETS)


def open_source(
    spec: str | Path,
    *,
    classnames: ClassList | Sequence[str] | Mapping[str, str] | None = None,
    templates: Sequence[str] | None = None,
    split: str | None = None,
    default_split: str | None = None,
    image_key: str = "",
    caption_key: str = "",
    image_root: str | Path | None = None,
    cache: ShardCache | None = None,
    download: bool = True,
) -> Source:
    """A random-access source from its description.

    Args:
        spec: One of the forms in `FORMS`, such as ``imagefolder:DIR``, ``wds:DIR`` (or a tar, a
            glob, a brace range, a URL), ``csv:FILE``, ``parquet:DIR``, ``coco:JSON``,
            ``tfrecord:DIR``; or a bare path that is recognised.
        classnames: Class names in label order, or a mapping of folder to class name, instead
            of those that come with the data.
        templates: Caption templates with ``{c}``, instead of those that come with the data.
        split: Which split, where the data has several.
        default_split: The split of a torchvision set when ``split`` is None, instead of its test
            split; data on disk has no default.

        image_key: Column, feature or extension of the image, where it has an unusual name.
        caption_key: Column, feature, extension or JSON key of the captions.
        image_root: Directory that the paths of a table or of COCO's JSON are relative to.
        cache: Where shards behind a URL are kept, and how many bytes of them.
        download: Whether one of torchvision's sets is downloaded where it is not on disk.

    Raises:
        DataError: The description is not understood, or the data cannot be used.
    """
    kind, path = _split_spec(str(spec))
    if kind == "imagefolder":
        return ImageFolder(path, classnames=classnames, templates=templates, split=split)
    keys = {"image_key": image_key, "caption_key": caption_key}
    if kind in ("csv", "parquet") and split is not None:
        raise DataError(f"{spec}: a table has no splits; give the file of the split")
    if kind == "csv":
        return CsvTable(
            path, classnames=classnames, templates=templates, image_root=image_root, **keys
        )
    names = None if classnames is None else ClassList.of(classnames).names
    if kind == "parquet":
        return ParquetTable(
            path, classnames=names, templates=templates, image_root=image_root, **keys
        )
    if kind == "coco":
        return CocoCaptions(path, image_root=image_root, split=split, templates=templates)
    if kind == "corenet":
        return CoreNetTars(path, templates=templates, cache=cache)
    if kind in ("wds", "tfrecord"):
        reader = WebDataset if kind == "wds" else TFRecordSource
        return reader(path, classnames=names, templates=templates, split=split, cache=cache, **keys)
    return TorchvisionSet(
        kind,
        path or None,
        classnames=names,
        templates=templates,
        split=split or default_split,
        download=download,
    )


def _split_spec(spec: str) -> tuple[str, str]:
    if spec in SETS:
        return spec, ""
    kind, colon, path = spec.partition(":")
    if colon and kind in KINDS:
        if not path and kind not in SETS:
            raise DataError(f"{spec!r}: expected a path after {kind}:")
        return kind, path
    if not Path(spec).exists():
        refuse_command(spec)
    if is_url(spec):
        check_url(spec)
        return _recognise(spec), spec
    if colon and kind.isidentifier() and len(kind) > 1 and not Path(spec).exists():
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]}:? " if near else ""
        raise DataError(f"{spec!r}: unknown kind {kind!r}; {hint}expected {', '.join(FORMS)}")
    return _recognise(spec), spec


def _recognise(path_text: str) -> str:
    path = Path(path_text)
    if ".tfrecord" in path.name:
        return "tfrecord"
    by_suffix = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".json": "coco"}
    if path.suffix.lower() in by_suffix:
        return by_suffix[path.suffix.lower()]
    if path_text.endswith(".tar") or "{" in path_text or is_url(path_text):
        return "wds"
    if not path.exists():
        if any(mark in path_text for mark in "*?["):
            return "wds"
        raise DataError(f"{path_text}: no such file or directory; expected {', '.join(FORMS)}")
    if path.is_dir():
        if next(path.glob("*.tar"), None) or next(path.glob("*/*.tar"), None):
            return "wds"
        if next(path.glob("nshards.txt"), None) or next(path.glob("*/nshards.txt"), None):
            return "wds"
        for kind, pattern in (
            ("corenet", "metadata.pkl"),
            ("parquet", "*.parquet"),
            ("tfrecord", "*.tfrecord*"),
            ("tfrecord", "*/*.tfrecord*"),
        ):
            if next(path.glob(pattern), None):
                return kind
        if holds_images(path) or any(path.iterdir()):
            return "imagefolder"
        raise DataError(f"{path_text}: empty; expected class folders with images, or .tar shards")
    raise DataError(f"{path_text}: not a kind of data known here; expected {', '.join(FORMS)}")

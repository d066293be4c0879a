"""The table of data formats, and the way in: a source from a text such as `imagefolder:photos/val`.

A format is a reader (a subclass of `Source`) and a row of `FORMATS`. Whatever lists, recognizes or
opens formats reads the table: `open_source`, `absolute_source`, error texts, the help of the
commands. A reader is imported when its first source is opened. Another installed package may add a
row by an entry point, which is looked for when its kind is named.
"""

from __future__ import annotations

import difflib
import functools
import os
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from clip_eval.data.class_names import ClassList, ClassNames
from clip_eval.data.commands import expand_path, is_command
from clip_eval.data.faults import DataError
from clip_eval.data.patterns import missing_path
from clip_eval.data.samples import Source
from clip_eval.data.shards.cache import ShardCache
from clip_eval.data.urls import check_url, is_url

WILDCARDS = frozenset("*?[{")
_PAIRS = "clip_eval.data.readers.image_text_pairs"


@dataclass(frozen=True, kw_only=True)
class Format:
    """A data format: one row of the table.

    Attributes:
        kind: The name before the colon.
        reader: `module:name` of the reader, or the reader itself. It is called with the path and
            with those keyword arguments of `open_source` that it accepts.
        form: How a source is written, for help and errors.
        content: What is read, as a noun phrase.
        accepts: Keyword arguments of `open_source` that the reader takes.
        is_on_disk: Whether the part after the colon is a path on this machine, unless it is a URL.
        needs_path: Whether there must be something after the colon.
        file_names: Patterns of file names, lower case, by which a bare path is recognized.
        contents: Patterns below a directory by which a bare directory is recognized.
        recognizer: `module:name` of a function that says whether a bare directory is recognized.
        is_default_directory: Whether a directory that no row recognizes is taken for this format.
        is_default_pattern: The same of URLs, and of patterns with wildcards or braces.
    """

    kind: str
    reader: str | Callable[..., Source]
    form: str
    content: str
    accepts: tuple[str, ...] = ()
    is_on_disk: bool = True
    needs_path: bool = True
    file_names: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    recognizer: str = ""
    is_default_directory: bool = False
    is_default_pattern: bool = False

    def load_reader(self) -> Callable[..., Source]:
        """The reader, imported now if it is given by name."""
        if not isinstance(self.reader, str):
            return self.reader
        reader: Callable[..., Source] = pkgutil.resolve_name(self.reader)
        return reader

    def recognizes(self, directory: Path) -> bool:
        """Whether a bare directory is of this format, by what lies in it."""
        if any(next(directory.glob(pattern), None) for pattern in self.contents):
            return True
        return bool(self.recognizer) and bool(pkgutil.resolve_name(self.recognizer)(directory))


_SPLIT = ("split", "default_split")
_KEYS = ("image_key", "caption_key", "label_key", "first_label")
_TABLE = ("classnames", "templates", *_SPLIT, *_KEYS, "image_root")
_SHARDS = ("classnames", "templates", *_SPLIT, *_KEYS, "cache")

FORMATS: dict[str, Format] = {
    row.kind: row
    for row in (
        Format(
            kind="imagefolder",
            reader="clip_eval.data.readers.image_folder:ImageFolder",
            form="imagefolder:DIR",
            content="class folders of images, `DIR/<class>/**/*.jpg`",
            accepts=("classnames", "templates", *_SPLIT),
            is_default_directory=True,
        ),
        Format(
            kind="wds",
            reader="clip_eval.data.readers.webdataset:WebDataset",
            form="wds:DIR-OR-PATTERN-OR-URL",
            content="WebDataset tar shards, CLIP_benchmark's layout included",
            accepts=_SHARDS,
            file_names=("*.tar",),
            contents=("*.tar", "*/*.tar", "nshards.txt", "*/nshards.txt"),
            is_default_pattern=True,
        ),
        Format(
            kind="pairs",
            reader=f"{_PAIRS}:ImageTextPairs",
            form="pairs:DIR",
            content="images with captions beside them, `a.jpg` and `a.txt`, at any depth",
            accepts=(
                *("classnames", "templates", *_SPLIT),
                *("caption_key", "label_key", "first_label"),
            ),
            recognizer=f"{_PAIRS}:holds_pairs",
        ),
        Format(
            kind="csv",
            reader="clip_eval.data.readers.csv_table:CsvTable",
            form="csv:FILE",
            content="a table (comma, semicolon, bar or tab) of image paths with captions or labels",
            accepts=_TABLE,
            file_names=("*.csv", "*.tsv"),
        ),
        Format(
            kind="jsonl",
            reader="clip_eval.data.readers.json_table:JsonTable",
            form="jsonl:FILE",
            content="JSON lines, or a JSON list, of objects with an image path, captions, labels",
            accepts=_TABLE,
            file_names=("*.jsonl", "*.ndjson"),
        ),
        Format(
            kind="parquet",
            reader="clip_eval.data.readers.parquet_table:ParquetTable",
            form="parquet:FILE-OR-DIR",
            content="Parquet files of image paths, or with the images inside",
            accepts=_TABLE,
            file_names=("*.parquet",),
            contents=("*.parquet", "*/*.parquet"),
        ),
        Format(
            kind="coco",
            reader="clip_eval.data.readers.coco_captions:CocoCaptions",
            form="coco:JSON",
            content="COCO's captions, or the JSON file of Karpathy's splits",
            accepts=("templates", *_SPLIT, "image_root"),
            file_names=("*.json",),
        ),
        Format(
            kind="tfrecord",
            reader="clip_eval.data.readers.tfrecord:TFRecordSource",
            form="tfrecord:DIR-OR-PATTERN",
            content="TFRecord files as img2dataset and TFDS write them, read without TensorFlow",
            accepts=_SHARDS,
            file_names=("*.tfrecord*",),
            contents=("*.tfrecord*", "*/*.tfrecord*"),
        ),
        Format(
            kind="corenet",
            reader="clip_eval.data.readers.corenet_tars:CoreNetTars",
            form="corenet:DIR",
            content="CoreNet's tar.gz files with `metadata.pkl`",
            accepts=("templates", *_SPLIT, "cache"),
            contents=("metadata.pkl", "*/metadata.pkl"),
        ),
        *(
            Format(
                kind=f"cifar{number}",
                reader=f"clip_eval.data.readers.torchvision_sets:Cifar{number}",
                form=f"cifar{number}[:ROOT]",
                content=f"CIFAR-{number} as torchvision stores it, downloaded if it is not there",
                accepts=("classnames", "templates", *_SPLIT, "download"),
                needs_path=False,
            )
            for number in (10, 100)
        ),
    )
}
"""Rows by kind; the first row that recognizes a bare path opens it."""


GROUP = "clip_eval.data_formats"
"""Entry points of other packages' rows, such as clip-train's `holdout`."""


def find_format(kind: str) -> Format | None:
    """The row of a kind, of the table or of another installed package."""
    return FORMATS.get(kind) or (_load_format(kind) if kind.isidentifier() else None)


@functools.cache
def _load_format(kind: str) -> Format | None:
    found: Format | None = next((one.load() for one in entry_points(group=GROUP, name=kind)), None)
    return found


def register_format(row: Format) -> None:
    """Add a row to the table.

    Raises:
        DataError: There is a format of that kind already.
    """
    if row.kind in FORMATS:
        raise DataError(f"there is a data format {row.kind!r} already; choose another kind")
    FORMATS[row.kind] = row


def list_forms() -> str:
    """How sources are written, as one text for help and errors."""
    return ", ".join(row.form for row in FORMATS.values())


def open_source(
    spec: str | Path,
    *,
    classnames: ClassNames | None = None,
    templates: Sequence[str] | None = None,
    split: str | None = None,
    default_split: str | None = None,
    image_key: str = "",
    caption_key: str = "",
    label_key: str = "",
    first_label: int | None = None,
    image_root: str | Path | None = None,
    cache: ShardCache | None = None,
    download: bool = True,
    exif_orientation: bool = False,
) -> Source:
    """A random-access source from its description.

    An option that a format has no use for is ignored, except `split`.

    Args:
        spec: `kind:path` in one of the forms of `FORMATS`, such as `imagefolder:DIR`, `wds:DIR`
            (or a tar, a glob, a brace range, a URL), `csv:FILE`; or a bare path that is recognized.
        classnames: Class names in label order, or a mapping of folder to class name, instead
            of those that come with the data.
        templates: Caption templates with `{c}`, instead of those that come with the data.
        split: Which split, where the data has several; an error where it has none.
        default_split: What is read where `split` is None: `train` for the training split, anything
            else for the test split or else the validation split.
        image_key: Column, feature or extension of the image, if it has no common name.
        caption_key: Column, feature, extension or JSON key of the captions.
        label_key: Column, feature, extension or JSON key of the label.
        first_label: Number of the first class in the data; None for 0, or for what the data tells.
        image_root: Directory that the paths of a table or of COCO's JSON are relative to.
        cache: Where shards behind a URL are kept, and how many bytes of them.
        download: Whether one of torchvision's sets is downloaded where it is not on disk.
        exif_orientation: Whether images are turned upright, as their EXIF says, when decoded.

    Raises:
        DataError: The description is not understood, or the data cannot be used.
    """
    row, path = _resolve(str(spec))
    root = str(image_root or "")
    options: dict[str, Any] = {
        "classnames": None if classnames is None else ClassList.of(classnames),
        "templates": templates,
        "split": split,
        "default_split": default_split,
        "image_key": image_key,
        "caption_key": caption_key,
        "label_key": label_key,
        "first_label": first_label,
        "image_root": os.path.expanduser(root) if root else None,
        "cache": cache,
        "download": download,
    }
    if split is not None and "split" not in row.accepts:
        raise DataError(f"{spec}: {row.kind} data has no splits; give the file of the split")
    source = row.load_reader()(path, **{name: options[name] for name in row.accepts})
    if exif_orientation:
        source.exif_orientation = True
    if is_command(str(spec).removeprefix(f"{row.kind}:")) and is_url(path):
        source.warnings = (*source.warnings, f"the command in {spec} is not run; {path} is read")
    return source


def expand_location(spec: str) -> str:
    """A source with the home directory in place of `~`, and a URL in place of a `pipe:` command.

    Raises:
        DataError: It is a command other than the usual copies of one URL.
    """
    kind, colon, path = spec.partition(":")
    row = find_format(kind) if colon else None
    if row is not None and row.is_on_disk:
        return f"{kind}:{expand_path(path)}"
    return expand_path(spec)


def absolute_source(spec: str) -> str:
    """A source with its path made absolute; URLs and what is no path on disk stay as they are."""
    spec = expand_location(spec)
    kind, colon, path = spec.partition(":")
    if not spec or is_url(spec) or is_url(path):
        return spec
    row = find_format(kind) if colon and path else None
    if row is not None:
        return f"{kind}:{Path(path).absolute()}" if row.is_on_disk else spec
    is_pattern = bool(WILDCARDS & set(spec)) and not _names_kind(spec)
    return str(Path(spec).absolute()) if is_pattern or Path(spec).exists() else spec


def is_missing(spec: str) -> bool:
    """Whether a source names one path on disk, without wildcards, where there is nothing."""
    kind, _, path = expand_location(spec).partition(":")
    row = find_format(kind)
    if row is None or not row.is_on_disk or not row.needs_path or is_url(path):
        return False
    return not (WILDCARDS | {":"}) & set(path) and not Path(path).exists()


def _resolve(spec: str) -> tuple[Format, str]:
    """The row of a source, and the path that its reader gets."""
    if not spec.strip():
        raise DataError(
            f"expected data ({list_forms()}), got an empty text; an empty path would be the "
            "current directory"
        )
    spec = expand_location(spec)
    kind, colon, path = spec.partition(":")
    row = find_format(kind) if colon else FORMATS.get(kind)
    if row is not None and (":" in spec or not row.needs_path):
        if not path.strip() and (row.needs_path or ":" in spec):
            raise DataError(f"{spec!r}: expected a path after {kind}:")
        if is_missing(spec):
            raise missing_path(spec)
        if row.is_default_directory and pkgutil.resolve_name(f"{_PAIRS}:holds_flat_pairs")(path):
            return FORMATS["pairs"], path  # there is no class folder
        return row, path
    if not Path(spec).exists():
        if is_url(spec):
            check_url(spec)
        elif _names_kind(spec):
            near = difflib.get_close_matches(kind, FORMATS, n=1)
            hint = f"did you mean {near[0]}:? " if near else ""
            raise DataError(f"{spec!r}: unknown kind {kind!r}; {hint}expected {list_forms()}")
    return _recognize(spec), spec


def _names_kind(spec: str) -> bool:
    """Whether a text begins like `kind:`; a single letter is a drive."""
    kind, colon, _ = spec.partition(":")
    return bool(colon) and kind.isidentifier() and len(kind) > 1


def _recognize(spec: str) -> Format:
    """The row that a bare path, pattern or URL belongs to."""
    path = Path(spec)
    rows = FORMATS.values()
    for row in rows:
        if any(fnmatchcase(path.name.lower(), pattern) for pattern in row.file_names):
            return row
    if path.is_dir():
        for row in rows:
            if row.recognizes(path):
                return row
        if (path / "clip_config.json").is_file():
            raise DataError(f"{spec}: a model directory, not data; --model takes it")
        if any(path.iterdir()):
            return next(row for row in rows if row.is_default_directory)
        raise DataError(f"{spec}: empty; expected class folders with images, or .tar shards")
    if not path.exists():
        if is_url(spec) or WILDCARDS & set(spec):
            return next(row for row in rows if row.is_default_pattern)
        raise missing_path(spec, f"expected {list_forms()}")
    raise DataError(f"{spec}: not a known kind of data; expected {list_forms()}")

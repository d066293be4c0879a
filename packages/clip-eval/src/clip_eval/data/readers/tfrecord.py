"""TFRecord files of images, without TensorFlow: as img2dataset and TFDS write them.

A record is a length (8 bytes), its checksum, the message, its checksum (4 bytes each, CRC-32C).
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Collection, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple

from clip_eval.data.bounds import open_regular
from clip_eval.data.class_names import ClassList, ClassNames, choose_names
from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.labels import label_of
from clip_eval.data.patterns import GLOB, expand_braces, match_files
from clip_eval.data.readers.tf_example import Values, WireError, parse_example
from clip_eval.data.samples import Sample
from clip_eval.data.shards.cache import ShardCache, ShardFile
from clip_eval.data.shards.crc32c import masked_crc32c
from clip_eval.data.shards.open_files import view_file
from clip_eval.data.shards.shard_index import (
    SUFFIX,
    IndexedShards,
    IndexedSource,
    Scan,
    make_scan,
)
from clip_eval.data.splits import (
    choose_files,
    group_by_split,
    resolve_split,
    role_of,
    split_of_files,
    split_of_folder,
    warn_of_split,
)
from clip_eval.data.templates import choose_templates
from clip_eval.data.urls import is_url

HEADER, FOOTER = 12, 4
IMAGE_KEYS = ("jpg", "jpeg", "png", "webp", "image", "image/encoded", "image_raw")
CAPTION_KEYS = ("caption", "captions", "captions/text", "text", "txt")
LABEL_KEYS = ("label", "image/class/label", "cls")
NAME_KEYS = ("key", "__key__", "file_name", "image/filename", "image_id")
FROM_ONE = "image/class/label"  # from 1 in TensorFlow's older ImageNet files, from 0 in others
NUMBERED = re.compile(r"[-_]\d+-of-\d+$")
VERSION = re.compile(r"\d+(\.\d+)*")
OTHER_SUFFIXES = (SUFFIX, ".json", ".txt", ".partial")


class TFRecordSource(IndexedSource):
    """Samples in TFRecord files, by index.

    Features are found by common names: those of img2dataset (`jpg`/`png`/`webp`,
    `caption`, `key`), of TFDS (`image`, `label`, `file_name`, `captions/text`) and of
    the older ImageNet files (`image/encoded`, `image/class/label`, counted from 0 or 1).

    Args:
        pattern: A directory, a file, a glob or a brace range; URLs one by one or as a range. In
            a directory of TFDS, its version directory is found and `label.labels.txt` read.
        classnames: Class names in label order.
        templates: Caption templates.
        split: Which split, where the names of files or folders tell several.
        default_split: `train` for the split that training reads, instead of evaluation's.
        image_key: Feature that holds the image.
        caption_key: Feature that holds the captions.
        label_key: Feature that holds the label.
        first_label: Number of the first class in the data. If None it is 0; for
            `image/class/label`, which counts from 0 in some files and from 1 in others, it is 1
            where no 0 occurs and the number of classes does.
        cache: Where files behind a URL are kept.

    Raises:
        DataError: No such files, some missing, or no record in them.
    """

    kind = "tfrecord"

    def __init__(
        self,
        pattern: str | Path,
        *,
        classnames: ClassNames | None = None,
        templates: Sequence[str] | None = None,
        split: str | None = None,
        default_split: str | None = None,
        image_key: str = "",
        caption_key: str = "",
        label_key: str = "",
        first_label: int | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        folder, files, chosen, splits, is_named = _find_files(str(pattern), split, default_split)
        self.name = "/".join(part for part in (folder.name, "" if is_named else chosen) if part)
        self.split = chosen or split_of_folder(folder) or None
        self.splits = tuple(sorted(filter(None, splits)))
        self.warnings = warn_of_split(
            chosen, splits, asked=chosen if is_named else split, default_split=default_split
        )
        self._image_keys = (image_key,) if image_key else IMAGE_KEYS
        self._caption_keys = (caption_key,) if caption_key else CAPTION_KEYS
        shards = [ShardFile(file, cache or ShardCache(), unzip=_is_gzip(file)) for file in files]
        super().__init__(IndexedShards(shards, _scan, _ends_at))
        labels = folder / "label.labels.txt"
        found = ClassList.read(labels).names if labels.is_file() else None
        self.classnames = choose_names(found, classnames, where=f"{self.name}: {labels.name}")
        self.templates = choose_templates(templates, *(() if is_url(str(pattern)) else (folder,)))
        if not len(self):
            raise DataError(f"{self.name}: no record in its {len(files)} files")
        self._label_keys = (label_key,) if label_key else LABEL_KEYS
        self._first_label = self._choose_first() if first_label is None else first_label

    def read(self, index: int) -> Sample:
        """Sample number `index`.

        Raises:
            BadSample: Its checksum does not hold, it is no example, or holds no image.
        """
        where = self.place(index)
        try:
            features = parse_example(self._read_message(index, where))
        except WireError as error:
            raise BadSample("bad-record", str(error), where) from error
        named = next((t for key in NAME_KEYS for t in _decode_texts(features.get(key), where)), "")
        key = f"{where} ({named})" if named else where
        image = next((v[0] for k in self._image_keys if (v := features.get(k))), None)
        if not isinstance(image, bytes):
            raise BadSample("no-image", f"features are {', '.join(sorted(features))}", key)
        found, _ = _find_label(features, self._label_keys)
        label = label_of(found, self.classnames, first=self._first_label, where=key)
        targets = label if isinstance(label, tuple) else None
        label = None if isinstance(label, tuple) else label
        captions = next(
            (t for k in self._caption_keys if (t := _decode_texts(features.get(k), key))), ()
        )
        return Sample(key, image, captions or self.class_captions(label, key), label, targets)

    def _choose_first(self) -> int:
        """Number of the first class: for TF-slim's feature, which counts from 0 or 1, as it does.

        Raises:
            DataError: The data does not tell.
        """
        if self.classnames is None or not self._counts_either_way():
            return 0
        count = len(self.classnames)
        order = list(range(len(self)))
        random.Random(0).shuffle(order)  # of 1000 classes, some 500 records tell
        for index in order:
            label = self._label_of(index)
            if label == 0:
                return 0
            if label == count:
                self.warnings = (
                    *self.warnings,
                    f"labels in {FROM_ONE} count from 1 (no 0 was found, and {count} was, of "
                    f"{count} classes): 1 is subtracted",
                )
                return 1
        raise DataError(
            f"{self.name}: labels in {FROM_ONE} count from 0 or from 1, and neither 0 nor {count} "
            "occurs to tell; say which with --first-label (data.first_label in a config)"
        )

    def _counts_either_way(self) -> bool:
        """Whether the label of the first record that has one is TF-slim's."""
        for index in range(len(self)):
            try:
                message = self._read_message(index, self.place(index))
                name = _find_label(parse_example(message), self._label_keys)[1]
            except (BadSample, WireError):
                continue
            return name == FROM_ONE
        return False

    def _label_of(self, index: int) -> Any:
        try:
            message = self._read_message(index, self.place(index))
            return _find_label(parse_example(message), self._label_keys)[0]
        except (BadSample, WireError):
            return None

    def _read_message(self, index: int, where: str) -> bytes:
        record = self.read_stretch(index)
        if len(record) < self._index.place(index).length or len(record) < HEADER + FOOTER:
            raise BadSample("changed", "the file is shorter than it was", where)
        message = record[HEADER:-FOOTER]
        if len(message) != int.from_bytes(record[:8], "little"):
            raise BadSample("changed", "another record than was indexed", where)
        if masked_crc32c(message) != int.from_bytes(record[-FOOTER:], "little"):
            raise BadSample("bad-checksum", "its CRC-32C does not hold", where)
        return message


def _find_label(features: dict[str, Values], keys: Sequence[str]) -> tuple[Any, str]:
    """The label of a record, or a list of several, and the feature that holds it."""
    for name in keys:
        values: Sequence[Any] | None = features.get(name)
        if values and not isinstance(values[0], float):
            found = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
            return (found[0] if len(found) == 1 else found), name
    return None, ""


def _decode_texts(values: Values | None, key: str) -> tuple[str, ...]:
    """Texts among the values of a feature, blank ones left out."""
    found = []
    for value in values or ():
        if isinstance(value, bytes):
            try:
                found.append(value.decode("utf-8").strip())
            except UnicodeDecodeError as error:
                raise BadSample("bad-utf8", f"{error.reason} at byte {error.start}", key) from error
    return tuple(text for text in found if text)


def _ends_at(path: Path, end: int, size: int) -> bool:
    return end == size


def _scan(path: Path) -> Scan:
    """Where the records of a file begin; contents are not touched."""
    offsets = [0]
    with view_file(path) as view:
        while (start := offsets[-1]) < len(view):
            header = view[start : start + HEADER]
            length, checksum = struct.unpack("<QI", header.ljust(HEADER, b"\0"))
            end = start + HEADER + length + FOOTER
            damage = ""
            if len(header) < HEADER or end > len(view):
                damage = "cut in the middle of a record"
            if len(header) == HEADER and masked_crc32c(header[:8]) != checksum:
                damage = "not a TFRecord header"
            if damage:
                return make_scan(path, offsets, "tfrecord", f"{damage} at byte {start}")
            offsets.append(end)
    return make_scan(path, offsets, "tfrecord")


def _is_gzip(file: str) -> bool:
    """Whether a file is compressed: by its name, or where it is on disk by its first bytes."""
    if file.endswith(".gz") or is_url(file):
        return file.endswith(".gz")
    try:
        with open(open_regular(file), "rb") as stream:
            start = stream.read(HEADER)
    except OSError:  # reported when it is indexed
        return False
    is_header = masked_crc32c(start[:8]) == int.from_bytes(start[8:HEADER], "little")
    return start[:3] == b"\x1f\x8b\x08" and not is_header


class _Found(NamedTuple):
    """The directory of the files, the files in order, and their split."""

    folder: Path
    files: list[str]
    split: str
    splits: Collection[str] = ()
    is_named: bool = False  # the split of files that were named one by one is not a choice


def _find_files(pattern: str, split: str | None, default_split: str | None) -> _Found:
    if Path(pattern).is_dir():
        folder = _find_folder(Path(pattern))
        groups = group_by_split(_list_records(folder), folder)
    elif GLOB.search(pattern) and not is_url(pattern):
        files = [file for file in match_files(pattern) if _is_record(file)]
        if not files:
            raise DataError(f"{pattern}: no file matches")
        folder = Path(commonpath(file.parent for file in files))
        groups = group_by_split(files, folder)
    else:
        return _list_named(pattern, split)
    chosen, files = choose_files(groups, split, default_split=default_split, where=folder)
    return _Found(folder.resolve(), list(map(str, files)), chosen, groups)


def _list_named(pattern: str, split: str | None) -> _Found:
    """Files that were named one by one."""
    if is_url(pattern):
        folder, files = Path(pattern.rpartition("/")[2]), expand_braces(pattern)
    else:
        paths = match_files(pattern)
        folder, files = paths[0].resolve().parent, list(map(str, paths))
    found = split_of_files(map(Path, files))
    if split is not None:
        resolve_split([found], split, where=pattern)
    return _Found(folder, files, found, is_named=True)


def _find_folder(root: Path) -> Path:
    """The directory that holds the records: itself, or that of TFDS's configuration and version.

    Folders of splits below it belong to it.
    """
    if _list_records(root, deep=False):
        return root
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and _holds(entry)]
    versions = [folder for folder in folders if VERSION.fullmatch(folder.name)]
    if versions:
        return max(versions, key=lambda folder: tuple(map(int, folder.name.split("."))))
    if any(role_of(folder.name) for folder in folders):
        return root
    if not folders:
        raise DataError(f"{root}: no TFRecord files in it")
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise DataError(f"{root}: several data sets ({names}); name one, as in {folders[0]}")
    return _find_folder(folders[0])


def _holds(folder: Path) -> bool:
    """Whether records lie in a folder, at most two levels down."""
    return any(_is_record(path) for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth))


def _list_records(folder: Path, *, deep: bool = True) -> list[Path]:
    """The records of a folder; where it has none itself, those in folders of splits."""
    found = sorted(path for path in folder.iterdir() if _is_record(path))
    if found or not deep:
        return found
    below = [entry for entry in folder.iterdir() if entry.is_dir() and role_of(entry.name)]
    return sorted(path for entry in below for path in entry.iterdir() if _is_record(path))


def _is_record(path: Path) -> bool:
    is_named = ".tfrecord" in path.name or NUMBERED.search(path.name) is not None
    return is_named and path.is_file() and not path.name.endswith(OTHER_SUFFIXES)

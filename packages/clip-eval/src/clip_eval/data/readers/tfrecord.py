"""TFRecord files of images, without TensorFlow: as img2dataset and TFDS write them.

A record is a length (8 bytes), its checksum, the message, its checksum (4 bytes each, CRC-32C).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

from clip_eval.data.class_names import ClassList, ClassNames, choose_names
from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.patterns import and_more, expand_braces, match_files
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
from clip_eval.data.splits import resolve_split
from clip_eval.data.templates import choose_templates
from clip_eval.data.urls import is_url

HEADER, FOOTER = 12, 4
IMAGE_KEYS = ("jpg", "jpeg", "png", "webp", "image", "image/encoded", "image_raw")
CAPTION_KEYS = ("caption", "captions", "captions/text", "text", "txt")
LABEL_KEYS = ("label", "image/class/label", "cls")
NAME_KEYS = ("key", "__key__", "file_name", "image/filename", "image_id")
FROM_ONE = "image/class/label"  # counted from 1 in TensorFlow's older ImageNet files
NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})$")


class TFRecordSource(IndexedSource):
    """Samples in TFRecord files, by index.

    Features are found by common names: those of img2dataset (`jpg`/`png`/`webp`,
    `caption`, `key`), of TFDS (`image`, `label`, `file_name`, `captions/text`) and of
    the older ImageNet files (`image/encoded`, `image/class/label` counted from 1).

    Args:
        pattern: A directory, a file, a glob or a brace range; URLs one by one or as a range. In
            a directory of TFDS, its version directory is found and `label.labels.txt` read.
        classnames: Class names in label order.
        templates: Caption templates.
        split: Which split, where the file names tell several.
        image_key: Feature that holds the image.
        caption_key: Feature that holds the captions.
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
        image_key: str = "",
        caption_key: str = "",
        cache: ShardCache | None = None,
    ) -> None:
        folder, files, chosen = _find_files(str(pattern), split)
        self.name = "/".join(part for part in (folder.name, chosen) if part)
        self.split = chosen
        self._image_keys = (image_key,) if image_key else IMAGE_KEYS
        self._caption_keys = (caption_key,) if caption_key else CAPTION_KEYS
        shards = [ShardFile(file, cache or ShardCache()) for file in files]
        super().__init__(IndexedShards(shards, _scan, _ends_at))
        labels = folder / "label.labels.txt"
        found = ClassList.read(labels).names if labels.is_file() else None
        self.classnames = choose_names(found, classnames, where=f"{self.name}: {labels.name}")
        self.templates = choose_templates(templates, *(() if is_url(str(pattern)) else (folder,)))
        if not len(self):
            raise DataError(f"{self.name}: no record in its {len(files)} files")

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
        label = _find_label(features)
        captions = next(
            (t for k in self._caption_keys if (t := _decode_texts(features.get(k), key))), ()
        )
        class_captions = self.class_captions(label, key)  # checks the label, captions or not
        return Sample(key, image, captions or class_captions, label)

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


def _find_label(features: dict[str, Values]) -> int | None:
    for name in LABEL_KEYS:
        values = features.get(name)
        if values and isinstance(values[0], int):
            return values[0] - (name == FROM_ONE)
    return None


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


def _find_files(pattern: str, split: str | None) -> tuple[Path, list[str], str | None]:
    """The directory, the files in order, and the split that was chosen."""
    if Path(pattern).is_dir():
        return _find_in_directory(Path(pattern), split)
    if split is not None:
        raise DataError(f"{pattern}: a split can be chosen only in a directory")
    if is_url(pattern):
        return Path(pattern.rpartition("/")[2]), expand_braces(pattern), None
    files = [file for file in match_files(pattern) if file.suffix != SUFFIX]
    if not files:
        raise DataError(f"{pattern}: no file matches")
    return files[0].resolve().parent, list(map(str, files)), None


def _find_in_directory(root: Path, split: str | None) -> tuple[Path, list[str], str | None]:
    folder = root
    while not (found := _list_records(folder)):
        versions = sorted(entry for entry in folder.iterdir() if entry.is_dir())
        if not versions:
            raise DataError(f"{root}: no TFRecord files in it")
        folder = versions[-1]  # TFDS: name/version, the newest
    by_split: dict[str, list[Path]] = {}
    for path in found:
        by_split.setdefault(_split_name(path), []).append(path)
    chosen = resolve_split(by_split, split, preferred=("validation", "test"), where=folder)
    files = by_split[chosen]
    _refuse_missing(files)
    return folder, [str(file) for file in files], chosen or None


def _list_records(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and (".tfrecord" in path.name or NUMBERED.search(path.name))
        and not path.name.endswith((".idx", ".json", ".txt", ".partial"))
    )


def _split_name(path: Path) -> str:
    """The split in a file's name: `set-train.tfrecord-00000-of-00002`, `train-00000-of-00002`."""
    stem = NUMBERED.sub("", path.name)
    stem = stem.partition(".tfrecord")[0]
    return "" if stem.isdigit() else stem.rpartition("-")[2]


def _refuse_missing(files: list[Path]) -> None:
    numbers = [match for file in files if (match := NUMBERED.search(file.name))]
    for total in {int(match[2]) for match in numbers}:
        there = {int(match[1]) for match in numbers if int(match[2]) == total}
        gaps = sorted(set(range(total)) - there)
        if gaps:
            raise DataError(
                f"missing shard {gaps[0]:05d} of {total}{and_more(len(gaps) - 1)} beside {files[0]}"
            )

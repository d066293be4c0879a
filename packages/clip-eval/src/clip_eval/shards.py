"""WebDataset shards with random access: tars in which a sample is a run of files of one stem.

The index holds, for each sample, where its run of members begins and how long it is: 16 bytes.
Reading a sample is one read of that stretch; nothing but headers is read before.
"""

from __future__ import annotations

import json
import mmap
import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_eval.class_names import ClassList
from clip_eval.faults import BadSample, DataError, Fault
from clip_eval.prompts import DEFAULT_TEMPLATES, check_templates
from clip_eval.samples import Sample, describe
from clip_eval.shard_paths import find_shards
from clip_eval.tar_index import Member, TarDamage, iter_members

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
OPEN_FILES = 32


class WebDataset:
    """Samples in tar shards, by index.

    Of each sample the first image is used, with ``.txt`` (one caption a line), ``.cls`` (label)
    and ``.json`` (``caption``, ``captions`` or ``text``; ``label`` or ``cls``) where present.

    Args:
        pattern: A directory of tars, one tar, a glob, or a brace range such as
            ``data/{000..012}.tar``.  In a directory, ``classnames.txt``,
            ``zeroshot_classification_templates.txt`` and ``<split>/nshards.txt`` are honoured.
        classnames: Class names in label order, instead of those in the directory.
        templates: Caption templates, instead of those in the directory.
        split: Folder of shards below the directory; found if there is only one.

    Raises:
        DataError: A shard is missing, or no sample with an image is found.
    """

    def __init__(
        self,
        pattern: str | Path,
        *,
        classnames: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        split: str | None = None,
    ) -> None:
        layout = find_shards(str(pattern), split=split)
        self.name = layout.name
        self.shards = layout.shards
        self.templates = check_templates(templates) if templates else layout.templates
        self.classnames = _choose_names(layout.classnames, classnames, layout.name)
        self.faults: tuple[Fault, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self._starts = array("q")  # offset of each sample's first header
        self._lengths = array("q")  # bytes to its end
        self._first = [0]  # number of samples before each shard
        self._files: OrderedDict[int, _Handle] = OrderedDict()
        self._index()

    def __len__(self) -> int:
        """Number of samples that have an image."""
        return len(self._starts)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open files."""
        return {**self.__dict__, "_files": OrderedDict()}

    def read(self, index: int) -> Sample:
        """Sample number ``index``, in the order of the shards.

        Raises:
            BadSample: Its stretch of the shard changed or holds bad text.
        """
        shard, data, members = self._members(index)
        key = f"{self.shards[shard].name}/{_stem(members[0].name)}"
        image: bytes | None = None
        parts: dict[str, bytes] = {}
        for member in members:
            extension = _extension(member.name)
            content = data[member.offset : member.offset + member.size]
            if image is None and extension in IMAGE_EXTENSIONS:
                image = content
            parts.setdefault(extension, content)
        if image is None:
            raise BadSample("changed", "its image is gone since the shard was indexed", key)
        captions, label = _captions_and_label(parts, key)
        if not captions and label is not None and self.classnames is not None:
            if not 0 <= label < len(self.classnames):
                raise BadSample("bad-label", f"{label} of {len(self.classnames)} classes", key)
            captions = describe(self.classnames[label], self.templates or DEFAULT_TEMPLATES)
        return Sample(key, image, captions, label)

    def label(self, index: int) -> int | None:
        """Label of one sample, without decoding anything.

        Raises:
            BadSample: The label is not an integer.
        """
        return self.read(index).label

    def _members(self, index: int) -> tuple[int, bytes, list[Member]]:
        if index < 0 or index >= len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = bisect_right(self._first, index) - 1
        try:
            data = self._read_at(shard, self._starts[index], self._lengths[index])
            return shard, data, list(iter_members(data, whole=False))
        except TarDamage as error:
            raise BadSample("changed", str(error), self._place(shard, index)) from error
        except OSError as error:
            place = self._place(shard, index)
            raise BadSample("unreadable", str(error.strerror), place) from error

    def _place(self, shard: int, index: int) -> str:
        return f"{self.shards[shard].name}, sample {index - self._first[shard]}"

    def _read_at(self, shard: int, offset: int, length: int) -> bytes:
        handle = self._files.get(shard) or _Handle(self.shards[shard])
        self._files[shard] = handle
        self._files.move_to_end(shard)
        if len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)
        return handle.read_at(offset, length)

    def _index(self) -> None:
        faults: list[Fault] = []
        for path in self.shards:
            faults += self._index_shard(path)
            self._first.append(len(self._starts))
        self.faults = tuple(faults)
        if not len(self):
            found = "; ".join(map(str, faults[:3])) or "the shards are empty"
            raise DataError(f"{self.name}: no sample with an image in its shards ({found})")

    def _index_shard(self, path: Path) -> list[Fault]:
        faults: list[Fault] = []
        before = len(self._starts)
        try:
            if path.stat().st_size == 0:
                return [Fault(where=path.name, reason="empty", detail="empty file")]
            with path.open("rb") as file:
                if file.read(2) == b"\x1f\x8b":
                    raise DataError(
                        f"{path}: compressed, so its samples cannot be found by position; "
                        "decompress it with gunzip"
                    )
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                    without_image, damage = self._index_members(view)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        if damage is not None:
            kept = len(self._starts) - before
            detail = f"{damage}; {kept} samples before it are kept"
            faults.append(Fault(where=path.name, reason="damaged-tar", detail=detail))
        if without_image:
            detail = f"{without_image} samples have no image of a known kind"
            faults.append(Fault(where=path.name, reason="no-image", detail=detail))
        return faults

    def _index_members(self, view: mmap.mmap) -> tuple[int, TarDamage | None]:
        """Append the samples of one shard; returns how many had no image, and any damage."""
        without_image = 0
        damage: TarDamage | None = None
        run: _Run | None = None
        usual: set[str] = set()  # extensions of the sample before
        try:
            for member in iter_members(view):
                if _is_hidden(member.name):
                    continue
                if run is None or run.ends_before(member):
                    without_image += self._append(run)
                    usual = run.extensions if run else usual
                    run = _Run(member)
                run.add(member)
        except TarDamage as error:
            damage = error
        if damage is None or (run and usual <= run.extensions):  # else the cut went through it
            without_image += self._append(run)
        return without_image, damage

    def _append(self, run: _Run | None) -> int:
        """Enter a finished sample into the index; returns 1 if it had no image, else 0."""
        if run is None:
            return 0
        if not run.has_image:
            return 1
        self._starts.append(run.start)
        self._lengths.append(run.end - run.start)
        return 0


class _Run:
    """Consecutive members of one stem."""

    def __init__(self, first: Member) -> None:
        self.stem = _stem(first.name)
        self.start = first.start
        self.end = first.end
        self.extensions: set[str] = set()
        self.has_image = False

    def add(self, member: Member) -> None:
        extension = _extension(member.name)
        self.extensions.add(extension)
        self.has_image = self.has_image or extension in IMAGE_EXTENSIONS
        self.end = member.end

    def ends_before(self, member: Member) -> bool:
        return _stem(member.name) != self.stem or _extension(member.name) in self.extensions


class _Handle:
    """An open file that is read by position, and closed when it is forgotten."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY)

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _stem(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _extension(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _is_hidden(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.startswith((".", "__")) or name.startswith("__MACOSX/")


def _choose_names(
    found: tuple[str, ...] | None, given: Sequence[str] | None, where: str
) -> tuple[str, ...] | None:
    if given is None:
        return found
    names = ClassList.of(given).names
    if found is not None and len(found) != len(names):
        raise DataError(
            f"{where}: its classnames.txt has {len(found)} classes, the list given has "
            f"{len(names)}; labels in shards are positions, so the two must be equally long"
        )
    return names


def _captions_and_label(parts: dict[str, bytes], key: str) -> tuple[tuple[str, ...], int | None]:
    try:
        texts = {
            name: parts[name].decode("utf-8") for name in ("txt", "cls", "json") if name in parts
        }
    except UnicodeDecodeError as error:
        raise BadSample("bad-utf8", f"{error.reason} at byte {error.start}", key) from error
    captions = [line.strip() for line in texts.get("txt", "").splitlines() if line.strip()]
    label: int | None = None
    if "json" in texts:
        captions, label = _from_json(texts["json"], key, captions)
    if "cls" in texts:
        try:
            label = int(texts["cls"])
        except ValueError as error:
            raise BadSample("bad-label", f".cls holds {texts['cls'][:40]!r}", key) from error
    return tuple(captions), label


def _from_json(text: str, key: str, captions: list[str]) -> tuple[list[str], int | None]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadSample("bad-json", str(error), key) from error
    if not isinstance(record, dict):
        return captions, None
    for field in ("captions", "caption", "text"):
        value = record.get(field)
        if captions or not value:
            continue
        found = value if isinstance(value, list) else [value]
        captions = [item.strip() for item in found if isinstance(item, str) and item.strip()]
    label = record.get("label", record.get("cls"))
    return captions, label if isinstance(label, int) and not isinstance(label, bool) else None

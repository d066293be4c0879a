"""CoreNet's image–text set: `metadata.pkl` and `0.tar.gz`, `1.tar.gz`, … of pickled samples.

A tar.gz cannot be read by position, so each is decompressed once into the bounded cache of
`clip_eval.data.shards.cache`. Members are `<k>/<number>.pkl`: a dict of `image` (base64) and
`text` or `texts`. Pickles are read by `clip_eval.data.readers.restricted_pickle`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

from clip_eval.data.bounds import MEGABYTE, Bound, read_bounded, refuse_exhaustion
from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.patterns import MOST_PATHS, require_files
from clip_eval.data.readers.restricted_pickle import UnsafePickle, load_plain
from clip_eval.data.samples import Sample
from clip_eval.data.shards.cache import ShardCache, ShardFile
from clip_eval.data.shards.open_files import view_file
from clip_eval.data.shards.shard_index import (
    IndexedShards,
    IndexedSource,
    Scan,
    make_scan,
)
from clip_eval.data.shards.tar_headers import TarDamage, iter_members, tar_ends_at
from clip_eval.data.splits import resolve_split, warn_of_split
from clip_eval.data.templates import choose_templates
from clip_eval.data.urls import is_url, read_url

METADATA = "metadata.pkl"
METADATA_BYTES = Bound("CLIP_EVAL_MAX_TEXT_MB", 64, MEGABYTE)


class CoreNetTars(IndexedSource):
    """Samples of a CoreNet image–text set, by index.

    Args:
        root: Directory (or URL of one) with `metadata.pkl` and the tars, or with one such
            directory for each split.
        templates: Templates for prompts; captions come with the samples.
        split: Which split, where there are several.
        default_split: `train` for the split that training reads, instead of evaluation's.
        cache: Where the decompressed tars are kept.

    Raises:
        DataError: No metadata, or it is no plain dict, or a tar is missing.
    """

    kind = "corenet"

    def __init__(
        self,
        root: str | Path,
        *,
        templates: Sequence[str] | None = None,
        split: str | None = None,
        default_split: str | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        base = str(root).rstrip("/")
        self.splits = _list_splits(base)
        chosen = ""
        if self.splits or split is not None:
            chosen = resolve_split(
                self.splits or ("",), split, default_split=default_split, where=base
            )
        self.split = chosen or None
        self.warnings = warn_of_split(chosen, self.splits, asked=split, default_split=default_split)
        self.name = "/".join(filter(None, (base.rpartition("/")[2], chosen)))
        base = "/".join(filter(None, (base, chosen)))
        self.templates = choose_templates(templates)
        shards = [
            ShardFile(f"{base}/{name}", cache or ShardCache(), unzip=name.endswith(".gz"))
            for name in _list_tars(base)
        ]
        super().__init__(IndexedShards(shards, _scan, tar_ends_at))
        if not len(self):
            raise DataError(f"{base}: no sample in its {len(shards)} tars")

    def read(self, index: int) -> Sample:
        """Sample number `index`, in the order of the tars.

        Raises:
            BadSample: It is no pickle of plain values, or not of this layout.
        """
        where = self.place(index)
        data = self.read_stretch(index)
        try:
            member = next(iter_members(data, whole=False), None)
        except TarDamage as error:
            raise BadSample("changed", str(error), where) from error
        if member is None:
            raise BadSample("changed", "no file where its sample was", where)
        key = f"{self.shard_name(index)}/{member.name}"
        try:
            record = load_plain(data[member.offset : member.offset + member.size])
        except UnsafePickle as error:
            raise BadSample("unsafe-pickle", str(error), key) from error
        return _make_sample(record, key)


def _make_sample(record: object, key: str) -> Sample:
    if not isinstance(record, dict) or not isinstance(record.get("image"), bytes | str):
        raise BadSample("bad-record", "expected a dict with an image", key)
    try:
        image = base64.b64decode(record["image"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSample("bad-record", f"its image is no base64 ({error})", key) from error
    texts = record.get("texts") or record.get("text") or ()
    found = [texts] if isinstance(texts, str) else texts
    if not isinstance(found, list | tuple):
        raise BadSample("bad-record", "expected text to be a string or a list of them", key)
    captions = tuple(text.strip() for text in found if isinstance(text, str) and text.strip())
    return Sample(key, image, captions)


def _list_splits(base: str) -> tuple[str, ...]:
    """Names of the directories with metadata below one that has none itself."""
    if is_url(base) or (Path(base) / METADATA).is_file():
        return ()
    return tuple(sorted(found.parent.name for found in Path(base).glob(f"*/{METADATA}")))


def _list_tars(base: str) -> list[str]:
    """File names of the tars: those that the metadata lists where they exist, else numbers."""
    try:
        path = f"{base}/{METADATA}"
        content = read_url(path) if is_url(base) else read_bounded(path, METADATA_BYTES)
    except OSError as error:
        refuse_exhaustion(error, path)
        raise DataError(f"{base}/{METADATA}: cannot be read ({error.strerror or error})") from error
    try:
        metadata = load_plain(content or b"")
    except UnsafePickle as error:
        raise DataError(f"{base}/{METADATA}: {error}") from error
    count = metadata.get("total_tar_files") if isinstance(metadata, dict) else None
    if not isinstance(count, int) or not 1 <= count <= MOST_PATHS:
        raise DataError(f"{base}/{METADATA}: expected a dict with total_tar_files of 1 or more")
    listed = metadata.get("tar_file_names")
    names = [f"{number}.tar.gz" for number in range(count)]
    if is_url(base):
        return names
    if isinstance(listed, list | tuple) and len(listed) == count:
        given = [name.rpartition("/")[2] if isinstance(name, str) else "" for name in listed]
        if all(name and (Path(base) / name).is_file() for name in given):
            names = given
    require_files([Path(base) / name for name in names], f"of the {count} in {METADATA}")
    return names


def _scan(path: Path) -> Scan:
    """Where each pickle of a decompressed tar begins."""
    starts: list[int] = []
    end = 0
    damage = ""
    with view_file(path) as view:
        try:
            for member in iter_members(view):
                hidden = member.name.rpartition("/")[2].startswith(".")
                if member.name.endswith(".pkl") and not hidden:
                    starts.append(member.start)
                end = member.end
        except TarDamage as error:
            damage = str(error)
    return make_scan(path, [*starts, end], "tar", damage)

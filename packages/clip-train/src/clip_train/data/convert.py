"""Conversion of any data source to WebDataset shards, resumable after an interruption."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import webdataset
from clip_eval.data import (
    TEMPLATES_FILE,
    BadSample,
    DataError,
    Sample,
    Source,
    decode_image,
    image_suffix,
)
from dtp_pooling.run_lock import RunInUseError, RunLock, is_unused
from PIL import Image

from clip_train.data.captions import digest_image
from clip_train.logs.files import replace_text, replacing, write_lines
from clip_train.logs.progress import progress_bar

RECORD = "conversion.json"


@dataclass(frozen=True, kw_only=True)
class ConversionCounts:
    """Numbers of samples written and left out.

    Attributes:
        written: Number of samples in the shards.
        captions: Number of their captions.
        faults: Number of samples left out, by reason.
        named: The first samples left out, each with its reason.
        kept: Number of the samples in the shards that an earlier call had written.
    """

    written: int = 0
    captions: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    kept: int = 0

    def plus(self, other: ConversionCounts) -> ConversionCounts:
        """The counts of both."""
        return ConversionCounts(
            written=self.written + other.written,
            captions=self.captions + other.captions,
            faults=dict(Counter(self.faults) + Counter(other.faults)),
            named=(self.named + tuple(other.named))[:20],
            kept=self.kept + other.kept,
        )


def convert(
    source: Source,
    out: str | Path,
    *,
    shard_size: int = 10_000,
    check: bool = False,
    progress: bool = True,
) -> ConversionCounts:
    """Write a source as shards; returns the counts, of interrupted conversions as well.

    Each sample becomes its encoded image, `.txt` with one caption per line (`.json` if a caption
    has several lines) and `.cls` for a label; class names and templates are written beside the
    shards. Sample n of the source goes to shard n // shard_size under the key n. A shard appears
    complete or not at all, so that an interrupted conversion is continued by the same call. That
    call reads the samples of finished shards again, and raises if they are others: an edited
    caption, another caption column, a replaced image.

    Args:
        source: Samples to convert.
        out: Directory of the shards: new, or of an interrupted conversion of the same source.
        shard_size: Number of the source's samples per shard.
        check: Decode every image and leave out those that cannot be decoded.
        progress: Show a progress bar.

    Raises:
        DataError: The directory holds other files, or a conversion of other samples or with other
            options.
        OSError: A file cannot be written; the error names it.
    """
    if shard_size < 1:
        raise DataError(f"shard_size must be 1 or more, got {shard_size}")
    folder = Path(out)
    _claim(folder, _record(source, shard_size, check))
    if source.classnames:
        write_lines(folder / "classnames.txt", source.classnames)
    if source.templates:
        write_lines(folder / TEMPLATES_FILE, source.templates)
    try:
        with RunLock(folder):
            return _write_shards(source, folder, shard_size, check=check, progress=progress)
    except RunInUseError:
        raise
    except OSError as error:
        reason = (
            f"{error.strerror or error}; finished shards are whole, and the same command goes on"
        )
        raise OSError(error.errno or errno.EIO, reason, error.filename or str(folder)) from error


def _write_shards(
    source: Source, folder: Path, shard_size: int, *, check: bool, progress: bool
) -> ConversionCounts:
    """Write the shards that are missing; the counts of all."""
    total = ConversionCounts()
    with progress_bar(total=len(source), desc="convert", unit="sample", show=progress) as bar:
        for shard, first in enumerate(range(0, len(source), shard_size)):
            indices = range(first, min(first + shard_size, len(source)))
            path = folder / f"{shard:06d}.tar"
            counts = _finished(source, indices, path) or _write_shard(source, indices, path, check)
            bar.update(len(indices))
            total = total.plus(counts)
    return total


def _record(source: Source, shard_size: int, check: bool) -> dict[str, object]:
    """What determines the shards, but for the samples themselves."""
    beside = json.dumps([source.classnames, source.templates], ensure_ascii=False)
    return {
        "source": source.name,
        "split": source.split or "",
        "samples": len(source),
        "shard size": shard_size,
        "check": check,
        "class names and templates": hashlib.sha256(beside.encode()).hexdigest()[:16],
    }


def _claim(folder: Path, record: dict[str, object]) -> None:
    """Create the directory, or check that it holds a conversion of the same source."""
    file = folder / RECORD
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        differences = [
            f"{key} {found.get(key, 'unknown')!r} there, {record[key]!r} now"
            for key in record
            if found.get(key) != record[key]
        ]
        if differences:
            raise DataError(
                f"{folder} holds another conversion: {'; '.join(differences)}; choose another "
                "--out, or pass --overwrite to set it aside"
            )
        return
    file.with_name(f".{RECORD}.partial").unlink(missing_ok=True)  # of a call that was killed
    if not is_unused(folder):
        raise DataError(f"{folder} is not empty; choose a new directory, or pass --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(file, record)


def _finished(source: Source, indices: range, path: Path) -> ConversionCounts | None:
    """The counts of a shard that an earlier call finished, if it is of the same samples."""
    stats = path.with_name(f"{path.stem}_stats.json")
    if not (stats.is_file() and path.is_file()):
        return None
    record = json.loads(stats.read_text(encoding="utf-8"))
    if path.stat().st_size != record.pop("bytes", None):
        raise DataError(
            f"{path} is not as long as it was written; choose another --out, or pass --overwrite"
        )
    digest = hashlib.sha256()
    for index in indices:
        with contextlib.suppress(BadSample):
            _add_to_digest(digest, source.read(index))
    if digest.hexdigest() != record.pop("sha256 of samples", None):
        raise DataError(
            f"{path} was written from other images, captions or labels than {source.name} has now; "
            "choose another --out, or pass --overwrite to convert all of it again"
        )
    return replace(ConversionCounts(**record), kept=record["written"])


def _add_to_digest(digest: hashlib._Hash, sample: Sample) -> None:
    digest.update(digest_image(sample.image))
    digest.update(json.dumps([sample.key, sample.captions, sample.label]).encode())


def _write_shard(source: Source, indices: range, path: Path, check: bool) -> ConversionCounts:
    """Write one shard in one step, and its counts beside it; returns the counts."""
    written = captions = 0
    faults: list[BadSample] = []
    digest = hashlib.sha256()
    with (
        replacing(path) as partial,
        partial.open("wb") as stream,
        webdataset.TarWriter(stream, encoder=False, mtime=0) as tar,
    ):
        for index in indices:
            try:
                sample = source.read(index)
                _add_to_digest(digest, sample)
                if check:
                    _check_image(sample)
                files = _files_of(sample, source)
            except BadSample as error:
                faults.append(error)
                continue
            tar.write({"__key__": f"{index:09d}", **files})
            written += 1
            captions += len(sample.captions)
    counts = ConversionCounts(
        written=written,
        captions=captions,
        faults=dict(Counter(fault.reason for fault in faults)),
        named=tuple(map(str, faults[:20])),
    )
    record = {name: value for name, value in asdict(counts).items() if name != "kept"}
    record |= {"bytes": path.stat().st_size, "sha256 of samples": digest.hexdigest()}
    _write_json(path.with_name(f"{path.stem}_stats.json"), record)
    return counts


def _files_of(sample: Sample, source: Source) -> dict[str, bytes]:
    """The files of a sample by extension."""
    if isinstance(sample.image, Image.Image):
        out = io.BytesIO()
        sample.image.save(out, "PNG")
        files = {"png": out.getvalue()}
    else:
        files = {_extension(sample.image, sample.key): sample.image}
    if sample.label is not None:
        files["cls"] = str(sample.label).encode()
    if sample.captions and sample.captions != _from_class(sample, source):
        if any("\n" in caption or "\r" in caption for caption in sample.captions):
            files["json"] = json.dumps({"captions": sample.captions}, ensure_ascii=False).encode()
        else:
            files["txt"] = "\n".join(sample.captions).encode()
    return files


def _from_class(sample: Sample, source: Source) -> tuple[str, ...]:
    """The captions that a reader of the shards makes from the label."""
    if sample.label is None or not source.classnames or not source.templates:
        return ()
    return source.class_captions(sample.label, sample.key)


def _check_image(sample: Sample) -> None:
    """Decode an image; its fault carries the name of the sample."""
    try:
        decode_image(sample.image)
    except BadSample as error:
        raise BadSample(error.reason, error.detail, sample.key) from error


def _extension(data: bytes, key: str) -> str:
    try:
        return image_suffix(data).removeprefix(".")
    except BadSample as error:
        raise BadSample(error.reason, error.detail, key) from error


def _write_json(path: Path, content: object) -> None:
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False))

"""A summary of a data set: layout, classes, sizes, captions, broken samples."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clip_eval.data.contact_sheet import Picture, make_picture, render_contact_sheet
from clip_eval.data.faults import BadSample, DataError, Fault
from clip_eval.data.images import decode_image
from clip_eval.data.samples import Sample, Source
from clip_eval.data.storage import atomic_path
from clip_eval.data.text_width import display_width, pad

PERCENTILES = (0, 5, 50, 95, 100)
MAX_CLASSES = 40  # lines of a text
MAX_BROKEN = 20
BAR_WIDTH = 24
QUANTITIES = (
    *("width", "height", "bytes"),
    *("captions per image", "words per caption", "characters per caption"),
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What reading the samples of a source showed.

    Attributes:
        name: Name of the data.
        kind: Kind of the data, or the class of a reader without a kind.
        split: The split that was read, where the data has several.
        n: Number of samples listed.
        read: Number of samples that were read, broken ones included.
        shards: Number of shards, None without shards.
        classnames: Class names in label order, None without labels.
        per_class: Usable samples by label.
        unlabeled: Usable samples without label.
        captioned: Usable samples with at least one caption.
        percentiles: Least, 5 %, median, 95 % and most of each of `QUANTITIES` that occurs.
        broken: Samples that cannot be used.
        faults: Damage found while listing the data.
        warnings: What the owner of the data should know.
        templates: Caption templates that come with the data.
        pictures: Thumbnails of some usable samples, if they were asked for.
    """

    name: str
    kind: str
    split: str | None
    n: int
    read: int
    shards: int | None
    classnames: tuple[str, ...] | None
    per_class: dict[int, int]
    unlabeled: int
    captioned: int
    percentiles: dict[str, tuple[float, ...]]
    broken: tuple[Fault, ...]
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]
    templates: tuple[str, ...] | None
    pictures: tuple[Picture, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        record = asdict(self)
        del record["pictures"]
        return record

    def to_rows(self) -> list[tuple[str, str]]:
        """Rows of name and value, for a terminal or a page."""
        shards = "" if self.shards is None else f" in {self.shards:,} shards"
        split = f", split {self.split}" if self.split else ""
        usable = self.read - len(self.broken)
        rows = [
            ("data", f"{self.name} ({self.kind}): {self.n:,} samples{shards}{split}"),
            ("read", f"{self.read:,}: {usable:,} usable, {len(self.broken):,} broken"),
        ]
        if self.classnames:
            rows.append(("classes", f"{len(self.classnames):,}, {len(self.per_class):,} seen"))
        else:
            rows.append(("classes", "none (no class list)"))
        if self.unlabeled:
            rows.append(("no label", f"{self.unlabeled:,} samples"))
        rows.append(("captions", f"{self.captioned:,} samples have one"))
        for name, values in self.percentiles.items():
            rows.append((name, " · ".join(f"{value:,.0f}" for value in values)))
        if self.templates:
            rows.append(("templates", ", ".join(map(repr, self.templates[:5]))))
        for reason, count in Counter(fault.reason for fault in self.broken).most_common():
            rows.append((f"broken: {reason}", f"{count:,}"))
        return rows

    def to_text(self) -> str:
        """The summary as lines for a terminal."""
        rows = self.to_rows()
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        if self.percentiles:
            row = next(n for n, (name, _) in enumerate(rows) if name in self.percentiles)
            lines.insert(row, f"{'':<{width}}  least · 5 % · median · 95 % · most:")
        is_part = self.read < self.n
        lines += _class_lines(self.classnames or (), self.per_class, is_part=is_part)
        for fault in self.broken[:MAX_BROKEN]:
            lines.append(f"broken: {fault.where}: {fault.reason}: {fault.detail}")
        if len(self.broken) > MAX_BROKEN:
            lines.append(f"broken: and {len(self.broken) - MAX_BROKEN:,} more")
        lines += [f"damaged: {fault}" for fault in self.faults]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def write_html(self, path: str | Path) -> None:
        """Write a page of the pictures with their captions; it needs no other file."""
        broken = [f"{fault.where}: {fault.reason}: {fault.detail}" for fault in self.broken]
        faults = [*map(str, self.faults), *broken]
        page = render_contact_sheet(self.name, self.to_rows(), self.pictures, faults)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(page.encode("utf-8", "backslashreplace"))


def summarize(
    source: Source,
    *,
    samples: int | None = None,
    seed: int = 0,
    pictures: int = 0,
    progress: bool = False,
) -> Summary:
    """Read and decode samples of a source, and count.

    Args:
        source: What to read.
        samples: Number of samples to read, drawn by the seed; None for all.
        seed: Decides which samples are read and pictured.
        pictures: Number of thumbnails to keep.
        progress: Show a progress bar.

    Raises:
        DataError: `samples` is below 1.
    """
    if samples is not None and samples < 1:
        raise DataError(f"the number of samples must be at least 1, got {samples}")
    draw, numbers = random.Random(seed), range(len(source))
    is_part = samples is not None and samples < len(source)
    indices: Sequence[int] = sorted(draw.sample(numbers, samples or 0)) if is_part else numbers
    pictured = set(draw.sample(indices, min(pictures, len(indices))))
    counts = _Counts()
    for index in tqdm(indices, "inspect", unit="sample", disable=not progress):
        counts.add(source, index, is_pictured=index in pictured)
    shards = source.shard_sizes
    return Summary(
        name=source.name,
        kind=source.kind or type(source).__name__,
        split=source.split,
        n=len(source),
        read=len(indices),
        shards=None if shards is None else len(shards),
        classnames=source.classnames,
        per_class=dict(counts.per_class),
        unlabeled=counts.unlabeled,
        captioned=counts.captioned,
        percentiles={
            name: tuple(np.percentile(values, PERCENTILES).tolist())
            for name, values in counts.quantities.items()
            if values
        },
        broken=tuple(counts.broken),
        faults=source.faults,
        warnings=source.warnings,
        templates=source.templates,
        pictures=tuple(counts.pictures),
    )


class _Counts:
    """Counts of the samples read so far."""

    def __init__(self) -> None:
        self.per_class: Counter[int] = Counter()
        self.unlabeled = self.captioned = 0
        self.quantities = {name: array("q") for name in QUANTITIES}
        self.broken: list[Fault] = []
        self.pictures: list[Picture] = []

    def add(self, source: Source, index: int, *, is_pictured: bool) -> None:
        """Read and decode one sample."""
        key = f"sample {index}"
        try:
            sample = source.read(index)
            key = sample.key
            image = decode_image(sample.image, exif_orientation=source.exif_orientation)
        except BadSample as error:
            fault = Fault(where=error.key or key, reason=error.reason, detail=error.detail)
            self.broken.append(fault)
            return
        self._count(sample, image.size)
        if is_pictured:
            self.pictures.append(make_picture(sample, image))

    def _count(self, sample: Sample, size: tuple[int, int]) -> None:
        self.captioned += bool(sample.captions)
        labels = sample.targets or (() if sample.label is None else (sample.label,))
        self.per_class.update(labels)
        self.unlabeled += sample.label is None and sample.targets is None
        found = {
            "width": size[:1],
            "height": size[1:],
            "bytes": [len(sample.image)] if isinstance(sample.image, bytes) else [],
            "captions per image": [len(sample.captions)],
            "words per caption": [len(text.split()) for text in sample.captions],
            "characters per caption": map(len, sample.captions),
        }
        for name, values in found.items():
            self.quantities[name].extend(values)


def _class_lines(
    classnames: tuple[str, ...], per_class: dict[int, int], *, is_part: bool
) -> list[str]:
    """Count and bar of each class, and labels that are in none."""
    counts = [per_class.get(label, 0) for label in range(len(classnames))]
    outside = {k: v for k, v in per_class.items() if classnames and not 0 <= k < len(classnames)}
    if is_part:  # a class that is not among the samples read may still have some
        shown = [(name, n) for name, n in zip(classnames, counts, strict=True) if n]
        classnames, counts = tuple(name for name, _ in shown), [n for _, n in shown]
    lines = []
    width = max(map(display_width, classnames), default=0)
    most = max([1, *counts])
    for name, count in zip(classnames[:MAX_CLASSES], counts, strict=False):
        bar = "█" * round(BAR_WIDTH * count / most)
        lines.append(f"  {pad(name, width)}  {count:>7,}  {bar}".rstrip())
    if len(classnames) > MAX_CLASSES:
        lines.append(f"  and {len(classnames) - MAX_CLASSES} more classes")
    lines += [f"  label {label} is in no class: {n} samples" for label, n in outside.items()]
    return lines

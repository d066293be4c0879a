"""What is in a data set: layout, classes, counts and broken files.  No model is needed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tqdm import tqdm

from clip_eval.data.faults import BadSample
from clip_eval.data.images import decode_image
from clip_eval.data.samples import Source
from clip_eval.report.table import display_width
from clip_eval.results.result import Skipped

MAX_ROWS = 40
MAX_BROKEN = 20


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What reading every sample showed.

    Attributes:
        name: Name of the data.
        layout: How it is stored.
        n: Number of samples listed.
        classnames: Class names in label order, None without labels.
        per_class: Usable samples per label.
        unlabelled: Usable samples without label.
        with_captions: Usable samples with at least one caption.
        sizes: Smallest and largest width and height: (min w, min h, max w, max h).
        broken: Samples that cannot be used.
        faults: Damage to the data set, one line each.
        warnings: What its owner should know.
        templates: Caption templates that come with it.
    """

    name: str
    layout: str
    n: int
    classnames: tuple[str, ...] | None
    per_class: dict[int, int]
    unlabelled: int
    with_captions: int
    sizes: tuple[int, int, int, int] | None
    broken: tuple[Skipped, ...]
    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    templates: tuple[str, ...] | None


def inspect_source(source: Source, *, progress: bool = False) -> Inspection:
    """Read and decode every sample, and count."""
    per_class: Counter[int] = Counter()
    unlabelled = with_captions = 0
    widths: list[int] = []
    heights: list[int] = []
    broken: list[Skipped] = []
    for index in tqdm(range(len(source)), unit="img", desc="inspecting", disable=not progress):
        key = f"sample {index}"
        try:
            sample = source.read(index)
            key = sample.key
            size = decode_image(sample.image).size
        except BadSample as error:
            broken.append(Skipped(key=error.key or key, reason=error.reason, detail=error.detail))
            continue
        widths.append(size[0])
        heights.append(size[1])
        with_captions += bool(sample.captions)
        if sample.label is None and sample.targets is None:
            unlabelled += 1
        per_class.update(sample.targets or (() if sample.label is None else (sample.label,)))
    return Inspection(
        name=source.name,
        layout=type(source).__name__,
        n=len(source),
        classnames=source.classnames,
        per_class=dict(per_class),
        unlabelled=unlabelled,
        with_captions=with_captions,
        sizes=(min(widths), min(heights), max(widths), max(heights)) if widths else None,
        broken=tuple(broken),
        faults=tuple(map(str, source.faults)),
        warnings=source.warnings,
        templates=source.templates,
    )


def format_inspection(found: Inspection) -> str:
    """The inspection as lines for a terminal."""
    lines = [f"{found.name}: {found.layout}, {found.n:,} samples, {len(found.broken):,} broken"]
    if found.sizes:
        low_w, low_h, high_w, high_h = found.sizes
        same = (low_w, low_h) == (high_w, high_h)
        lines.append(f"sizes: {low_w}×{low_h}" + ("" if same else f" to {high_w}×{high_h}"))
    lines.append(f"captions: {found.with_captions:,} samples have one")
    if found.templates:
        lines.append(f"templates: {', '.join(map(repr, found.templates[:5]))}")
    lines += _class_lines(found)
    if found.unlabelled:
        lines.append(f"without label: {found.unlabelled:,}")
    for skipped in found.broken[:MAX_BROKEN]:
        lines.append(f"broken: {skipped.key}: {skipped.reason}: {skipped.detail}")
    if len(found.broken) > MAX_BROKEN:
        lines.append(f"broken: and {len(found.broken) - MAX_BROKEN} more")
    lines += [f"damaged: {fault}" for fault in found.faults]
    lines += [f"warning: {warning}" for warning in found.warnings]
    return "\n".join(lines)


def _class_lines(found: Inspection) -> list[str]:
    if not found.classnames:
        return ["classes: none (no class list)"]
    counts = [found.per_class.get(label, 0) for label in range(len(found.classnames))]
    outside = {k: v for k, v in found.per_class.items() if not 0 <= k < len(found.classnames)}
    lines = [f"classes: {len(found.classnames)}"]
    width = max(display_width(name) for name in found.classnames)
    most = max([1, *counts])
    for name, count in zip(found.classnames[:MAX_ROWS], counts, strict=False):
        bar = "█" * round(24 * count / most)
        space = " " * (width - display_width(name))
        lines.append(f"  {name}{space}  {count:>7,}  {bar}".rstrip())
    if len(found.classnames) > MAX_ROWS:
        lines.append(f"  and {len(found.classnames) - MAX_ROWS} more classes")
    lines += [f"  label {label} is in no class: {n} samples" for label, n in outside.items()]
    return lines

"""A look at some samples of a data set: sizes, captions, faults, as a table and as a page."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from clip_eval.data import BadSample, Source, decode_image
from PIL import Image

from clip_train.logs.progress import progress_bar
from clip_train.plan.sample_order import ShardedOrder

THUMBNAIL = 160  # pixels of the longer side
FAULTS_NAMED = 20
PERCENTILES = (0, 5, 50, 95, 100)


@dataclass(frozen=True, kw_only=True)
class SeenSample:
    """A sample that could be used."""

    key: str
    width: int
    height: int
    bytes: int  # of the file; 0 where it was not encoded
    captions: tuple[str, ...]
    label: int | None
    thumbnail: str  # a data: address


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at some samples showed.

    Attributes:
        name: Name of the data.
        kind: How it is stored.
        size: Number of all samples.
        shards: Number of shards, None where there are none.
        seen: The samples that could be used.
        faults: The others, and damage found while listing.
        classnames: Class names in label order.
    """

    name: str
    kind: str
    size: int
    shards: int | None
    seen: tuple[SeenSample, ...]
    faults: tuple[BadSample, ...]
    classnames: tuple[str, ...] | None


def look_at(source: Source, count: int, *, seed: int = 0, progress: bool = True) -> Look:
    """Read and decode `count` samples, drawn without replacement by the seed."""
    order = ShardedOrder((len(source),), seed)
    indices = order.indices(0, np.arange(min(count, len(source)))).tolist()
    seen: list[SeenSample] = []
    faults = [BadSample(f.reason, f.detail, f.where) for f in source.faults]
    for index in progress_bar(indices, "inspect", unit="sample", show=progress):
        try:
            sample = source.read(index)
        except BadSample as error:
            faults.append(error)
            continue
        try:
            image = decode_image(sample.image)
        except BadSample as error:
            faults.append(BadSample(error.reason, error.detail, sample.key))
            continue
        seen.append(
            SeenSample(
                key=sample.key,
                width=image.width,
                height=image.height,
                bytes=len(sample.image) if isinstance(sample.image, bytes) else 0,
                captions=sample.captions,
                label=sample.label,
                thumbnail=_thumbnail(image),
            )
        )
    shards = source.shard_sizes
    return Look(
        name=source.name,
        kind=type(source).__name__,
        size=len(source),
        shards=None if shards is None else len(shards),
        seen=tuple(seen),
        faults=tuple(faults),
        classnames=source.classnames,
    )


def table_of(look: Look) -> list[tuple[str, str]]:
    """Rows of name and value, for a terminal or a page."""
    shards = "" if look.shards is None else f" in {look.shards:,} shards"
    rows = [
        ("data", f"{look.name} ({look.kind}): {look.size:,} samples{shards}"),
        ("read", f"{len(look.seen):,} usable, {len(look.faults):,} faults"),
    ]
    if look.classnames:
        labels = {sample.label for sample in look.seen}
        rows.append(("classes", f"{len(look.classnames):,}, {len(labels):,} of them seen"))
    texts = [caption for sample in look.seen for caption in sample.captions]
    numbers: dict[str, Sequence[int]] = {
        "width": [sample.width for sample in look.seen],
        "height": [sample.height for sample in look.seen],
        "bytes": [sample.bytes for sample in look.seen if sample.bytes],
        "captions an image": [len(sample.captions) for sample in look.seen],
        "words a caption": [len(text.split()) for text in texts],
        "characters a caption": [len(text) for text in texts],
    }
    for name, values in numbers.items():
        if values:
            shown = " · ".join(f"{value:,.0f}" for value in np.percentile(values, PERCENTILES))
            rows.append((name, shown))
    for reason, count in Counter(fault.reason for fault in look.faults).most_common():
        rows.append((f"fault: {reason}", f"{count:,}"))
    return rows


def format_look(look: Look) -> str:
    """The table and the first faults as lines for a terminal."""
    rows = table_of(look)
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    lines.insert(2, f"{'':<{width}}  numbers below: least · 5 % · median · 95 % · most")
    lines += [f"{'':<{width}}  {fault}" for fault in look.faults[:FAULTS_NAMED]]
    return "\n".join(lines)


def write_contact_sheet(look: Look, path: str | Path) -> None:
    """Write a page of pictures with their captions; it needs no other file."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in table_of(look)
    )
    cards = "".join(map(_card, look.seen))
    faults = "".join(f"<li>{html.escape(str(fault))}</li>" for fault in look.faults[:200])
    page = PAGE.format(
        title=html.escape(look.name),
        rows=rows,
        cards=cards,
        faults=f"<h2>Faults</h2><ul>{faults}</ul>" if faults else "",
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")


def _card(sample: SeenSample) -> str:
    captions = "".join(f"<p>{html.escape(caption)}</p>" for caption in sample.captions[:5])
    more = f"<p>and {len(sample.captions) - 5} more</p>" if len(sample.captions) > 5 else ""
    return (
        f'<figure><img src="{sample.thumbnail}" alt="" loading="lazy"><figcaption>'
        f"{captions or '<p class=none>no caption</p>'}{more}"
        f"<small>{html.escape(sample.key)} · {sample.width}×{sample.height}</small>"
        "</figcaption></figure>"
    )


def _thumbnail(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem;
  color: #222; background: #fff; }}
table {{ border-collapse: collapse; margin-bottom: 2rem; }}
th {{ text-align: left; font-weight: 600; padding: .2rem 1.5rem .2rem 0; vertical-align: top; }}
td {{ font-variant-numeric: tabular-nums; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 1rem; }}
figure {{ margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: .6rem;
  overflow-wrap: anywhere; }}
img {{ display: block; max-width: 100%; margin: 0 auto .5rem; }}
figcaption p {{ margin: 0 0 .3rem; }}
.none {{ color: #a00; }}
small {{ color: #666; }}
@media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #181818; }}
  figure {{ border-color: #444; }} small {{ color: #999; }} }}
</style></head><body>
<h1>{title}</h1>
<table>{rows}</table>
<p>Numbers are least · 5 % · median · 95 % · most.</p>
<main>{cards}</main>
{faults}
</body></html>
"""

"""Bodies of `clip-train data`."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

from clip_eval.data import DataError, Source, summarize
from dtp_pooling.run_lock import set_aside

from clip_train.config.data import DataConfig
from clip_train.data.convert import convert as convert_source
from clip_train.data.sources import absolute_spec, describe_splits, open_training_source
from clip_train.shapes.dataset import write_shapes

MAX_PICTURES = 500


def shapes(options: argparse.Namespace) -> None:
    """Write the shapes data set."""
    _make_room(options)
    summary = write_shapes(
        options.out,
        num_train=options.train,
        num_val_per_class=options.val_per_class,
        image_size=options.image_size,
        seed=options.seed,
        progress=not options.quiet,
    )
    print(
        f"{summary.num_train:,} training images in {summary.num_train_shards} shards and "
        f"{summary.num_val:,} images of {len(summary.classnames)} held-out classes in "
        f"{summary.directory}"
    )


def convert(options: argparse.Namespace) -> None:
    """Convert a source to shards."""
    source = _open(options)
    place = re.escape(str(Path(options.out).absolute()))
    if options.overwrite and re.search(rf"{place}(?:[/,:]|$)", absolute_spec(options.source)):
        raise DataError(f"{options.out} holds the source itself; choose another --out")
    _make_room(options)
    counts = convert_source(
        source,
        options.out,
        shard_size=options.shard_size,
        check=options.check,
        progress=not options.quiet,
    )
    print(
        f"{counts.written:,} of {len(source):,} samples{describe_splits(source)} with "
        f"{counts.captions:,} captions in {options.out}"
        + (f", {counts.kept:,} of them from before" if counts.kept else "")
    )
    for reason, count in sorted(counts.faults.items()):
        print(f"left out: {reason}: {count:,}")
    for line in (*map(str, source.faults), *counts.named):
        print(f"  {line}")


def inspect(options: argparse.Namespace) -> None:
    """Print what some samples of a source are like."""
    if options.out and Path(options.out).exists() and not options.overwrite:
        raise DataError(f"{options.out} exists already; choose another --out, or --overwrite")
    summary = summarize(
        _open(options),
        samples=options.samples,
        seed=options.seed,
        pictures=MAX_PICTURES if options.out else 0,
        progress=not options.quiet,
    )
    if options.out:
        summary.write_html(options.out)
    print(json.dumps(summary.to_dict(), ensure_ascii=False) if options.json else summary.to_text())


def _open(options: argparse.Namespace) -> Source:
    names = (
        *("image_key", "caption_key", "label_key", "first_label", "image_root", "split"),
        "classnames",
    )
    given = {name: getattr(options, name) for name in names}
    given["exif_orientation"] = getattr(options, "exif_orientation", False)  # of inspect
    return open_training_source(replace(DataConfig(train=options.source), **given))


def _make_room(options: argparse.Namespace) -> None:
    path = Path(options.out)
    if options.overwrite and path.is_dir() and any(path.iterdir()):
        set_aside(path)

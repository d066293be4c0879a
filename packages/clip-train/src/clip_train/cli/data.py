"""`clip-train data`: draw, convert and look at data sets."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from clip_eval.data import DataError, Source

from clip_train.config.run import DataConfig
from clip_train.data.convert import convert
from clip_train.data.inspect import format_look, look_at, write_contact_sheet
from clip_train.data.sources import open_training_source
from clip_train.shapes.dataset import write_shapes


def add_data_commands(commands: Any) -> None:
    """Add `data` and what is below it to the commands of a parser."""
    data = commands.add_parser("data", help="draw, convert and look at data sets").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    shapes = data.add_parser(
        "shapes", help="draw an image–caption set of coloured shapes", allow_abbrev=False
    )
    shapes.add_argument("directory", metavar="DIR", help="a new directory")
    shapes.add_argument("--train", type=int, default=20_000, help="training images")
    shapes.add_argument("--val-per-class", type=int, default=6, help="images a held-out class")
    shapes.add_argument("--image-size", type=int, default=64, help="side in pixels")
    shapes.add_argument("--seed", type=int, default=0)
    shapes.set_defaults(function=_shapes)
    conversion = data.add_parser(
        "convert",
        help="any source to WebDataset shards; goes on where it was interrupted",
        allow_abbrev=False,
    )
    _add_source(conversion)
    conversion.add_argument("out", metavar="OUT", help="a directory for the shards")
    conversion.add_argument("--shard-size", type=int, default=10_000, help="samples in a shard")
    conversion.add_argument(
        "--check", action="store_true", help="decode every image; leave out what cannot be"
    )
    conversion.set_defaults(function=_convert)
    inspection = data.add_parser(
        "inspect", help="sizes, captions and faults, and a page of pictures", allow_abbrev=False
    )
    _add_source(inspection)
    inspection.add_argument("--samples", type=int, default=200, help="how many to read")
    inspection.add_argument("--seed", type=int, default=0, help="which of them")
    inspection.add_argument("--html", metavar="FILE", help="write a contact sheet")
    inspection.set_defaults(function=_inspect)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="as data.train: wds:DIR, parquet:DIR, …")
    parser.add_argument("--image-key", default="", help="column or feature of the image")
    parser.add_argument("--caption-key", default="", help="column, feature or key of captions")
    parser.add_argument("--image-root", default="", help="directory that paths are relative to")
    parser.add_argument("--classnames", default="", metavar="FILE", help="names of the classes")


def _open(options: argparse.Namespace) -> Source:
    names = ("image_key", "caption_key", "image_root", "classnames")
    given = {name: getattr(options, name) for name in names}
    return open_training_source(replace(DataConfig(train=options.source), **given))


def _shapes(options: argparse.Namespace, flags: list[str]) -> None:
    summary = write_shapes(
        options.directory,
        num_train=options.train,
        num_val_per_class=options.val_per_class,
        image_size=options.image_size,
        seed=options.seed,
    )
    print(
        f"{summary.num_train:,} training images in {summary.num_train_shards} shards and", end=" "
    )
    print(
        f"{summary.num_val:,} of {len(summary.classnames)} held-out classes in {summary.directory}"
    )


def _convert(options: argparse.Namespace, flags: list[str]) -> None:
    source = _open(options)
    counts = convert(source, options.out, shard_size=options.shard_size, check=options.check)
    print(
        f"{counts.written:,} of {len(source):,} samples with {counts.captions:,} captions in "
        f"{options.out}"
    )
    for reason, count in sorted(counts.faults.items()):
        print(f"left out: {reason}: {count:,}")
    for line in (*map(str, source.faults), *counts.named):
        print(f"  {line}")


def _inspect(options: argparse.Namespace, flags: list[str]) -> None:
    if options.samples < 1:
        raise DataError(f"--samples must be 1 or more, got {options.samples}")
    look = look_at(_open(options), options.samples, seed=options.seed)
    print(format_look(look))
    if options.html:
        write_contact_sheet(look, options.html)
        print(f"contact sheet: {options.html}")

"""Arguments and help of every sub-command; the functions behind them are imported when called."""

from __future__ import annotations

import argparse
from typing import Any

from clip_models.command_line import CommandParser

from clip_train.config.supernet import SupernetSettings
from clip_train.cost.assumptions import NATURAL_CAPTION, Accelerators
from clip_train.translate.systems import SYSTEMS

PROG = "clip-train"
CONFIG_KEYS = "\nAny key of the config is a flag: --section.key VALUE; all are listed below."


def make_parser(keys: str = "") -> CommandParser:
    """The parser of the command line.

    Args:
        keys: The config keys, for the help of the commands that take them.
    """
    parser = CommandParser(prog=PROG, description="Train CLIP-like models.", allow_abbrev=False)
    parser.add_version("clip-train")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands, keys)
    _add_resume(commands, keys)
    _add_supernet(commands, keys)
    _add_plan(commands)
    _add_presets(commands)
    _add_translate(commands)
    data = _add(commands, "data", "drawing, conversion and inspection of image–caption data")
    topics = data.add_subparsers(dest="topic", required=True, metavar="COMMAND")
    _add_data_shapes(topics)
    _add_data_convert(topics)
    _add_data_inspect(topics)
    return parser


def _add(
    commands: Any, name: str, summary: str, function: str = "", **options: Any
) -> argparse.ArgumentParser:
    """A sub-command whose function is named `module:function`, below `clip_train.cli`."""
    options.setdefault("description", f"{summary[0].upper()}{summary[1:]}.")
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, allow_abbrev=False, **options
    )
    if function:
        parser.set_defaults(function=f"clip_train.cli.{function}")
    return parser


def _add_with_keys(
    commands: Any, name: str, summary: str, function: str, keys: str
) -> argparse.ArgumentParser:
    parser = _add(commands, name, summary, function)
    parser.description = f"{parser.description}{CONFIG_KEYS}"
    parser.epilog = keys
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _add_switch(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(f"--{name}", action="store_true", help=text)


def _add_out(parser: argparse.ArgumentParser, what: str, *, required: bool = True) -> None:
    parser.add_argument("--out", metavar="DIR", required=required, help=what)
    text = "replace an existing directory, which is renamed to DIR.old-N"
    _add_switch(parser, "overwrite", text)


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    _add_switch(parser, "quiet", "hide progress bars")


def _add_run(commands: Any, keys: str) -> None:
    parser = _add_with_keys(commands, "run", "training of a model", "training:run", keys)
    text = "preset (listed by `clip-train presets`), or TOML file"
    parser.add_argument("config", metavar="PRESET-OR-TOML", help=text)
    _add_out(parser, "run directory", required=False)
    text = "overfit check: train on the first N samples only, without augmentation"
    parser.add_argument("--overfit-batch", type=int, metavar="N", help=text)
    _add_switch(parser, "dry-run", "build everything, load one batch and stop")
    _add_quiet(parser)


def _add_resume(commands: Any, keys: str) -> None:
    summary = "continuation of an interrupted run, or of any run with a longer length"
    parser = _add_with_keys(commands, "resume", summary, "training:resume", keys)
    parser.description = (
        f"{summary[0].upper()}{summary[1:]}, as in --train.epochs 20.\n"
        "Keys of the length, the schedule, the evaluation, checkpoints and the log can change."
    )
    parser.add_argument("directory", metavar="RUN", help="run directory")
    _add_quiet(parser)


def _add_supernet(commands: Any, keys: str) -> None:
    summary = "training of a CLIP as a supernet, and smaller models cut from it"
    parser = _add_with_keys(commands, "supernet", summary, "training:supernet", keys)
    text = "finished run whose model, data and config are continued; or preset or TOML file"
    parser.add_argument("start", metavar="RUN|PRESET|TOML", help=text)
    _add_out(parser, "run directory")
    parser.add_argument(
        "--space",
        metavar="FILE",
        help="JSON file of the sizes to choose from, in our format or OFM's "
        "(default: hidden units, heads and layers of transformers)",
    )
    default = SupernetSettings()
    parser.add_argument(
        "--keep",
        type=float,
        nargs="+",
        default=list(default.keep),
        metavar="FRACTION",
        help="parameters of each smaller model, as fractions of the supernet's "
        f"(default: {' '.join(map(str, default.keep))})",
    )
    for name, text in (
        ("num-random", "number of random subnets per step"),
        ("distill", "weight in [0, 1] of the largest subnet's outputs in the others' loss"),
        ("embedding", "weight of the distance to the largest subnet's embeddings"),
        ("population", "number of subnets tried for each fraction"),
        ("generations", "number of NSGA-II generations; more than 0 needs pymoo"),
    ):
        _add_number(parser, name, text, getattr(default, name.replace("-", "_")))
    _add_quiet(parser)


def _add_plan(commands: Any) -> None:
    summary = "estimated cost of runs: tokens, FLOPs, memory, time and price"
    parser = _add(commands, "plan", summary, "training:plan")
    parser.add_argument(
        "configs", nargs="+", metavar="PRESET-OR-TOML", help="phases of a run, in order"
    )
    default = Accelerators()
    _add_number(parser, "accelerators", "number of accelerators", default.number)
    for name, text in (
        ("peak-tflops", "dense peak of one accelerator in TFLOP/s; A100 in bf16: 312"),
        ("utilization", "share of the peak that training reaches"),
        ("memory-gb", "memory of one accelerator in GB"),
        ("price-per-hour", "price of one accelerator for an hour, in any currency"),
    ):
        _add_number(parser, name, text, getattr(default, name.replace("-", "_")))
    _add_number(parser, "caption-tokens", "tokens of an average caption", NATURAL_CAPTION)
    parser.add_argument(
        "--num-samples", type=int, metavar="N", help="size of the data set, for lengths in epochs"
    )
    _add_switch(parser, "json", "print JSON instead of a table")


def _add_number(parser: argparse.ArgumentParser, name: str, text: str, default: float) -> None:
    """A flag for a number of the type of its default."""
    text = f"{text} (default: {default:g})"
    parser.add_argument(f"--{name}", type=type(default), default=default, metavar="N", help=text)


def _add_presets(commands: Any) -> None:
    parser = _add(commands, "presets", "list of the presets, or one as TOML", "recipes:presets")
    parser.add_argument("name", nargs="?", metavar="NAME", help="preset to print")


def _add_translate(commands: Any) -> None:
    parser = _add(
        *(commands, "translate", "command line or recipe of another system as TOML"),
        "recipes:translate",
        usage=f"{PROG} translate [-h] [--processes N] [--lenient] SYSTEM (FILE | -- COMMAND ...)",
    )
    parser.add_argument("system", metavar="SYSTEM", help=f"one of {', '.join(SYSTEMS)}")
    text = "shell script, YAML or JSON file, or a quoted command; or its words after a lone --"
    parser.add_argument("file", nargs="?", metavar="FILE", help=text)
    text = "number of processes of the original run (default: that of its launcher, or 1)"
    parser.add_argument("--processes", type=int, metavar="N", help=text)
    text = "list settings that have no counterpart, even if they change the result"
    _add_switch(parser, "lenient", text)


def _add_data_shapes(topics: Any) -> None:
    summary = "a drawn data set of colored shapes with captions; no download"
    parser = _add(topics, "shapes", summary, "data:shapes")
    _add_out(parser, "directory of the data set")
    for name, text, default in (
        ("train", "number of training images", 20_000),
        ("val-per-class", "number of images per held-out class", 6),
        ("image-size", "image side in pixels", 64),
        ("seed", "random seed", 0),
    ):
        _add_number(parser, name, text, default)
    _add_quiet(parser)


def _add_data_convert(topics: Any) -> None:
    summary = "conversion of a data source to WebDataset shards; continues an interrupted one"
    parser = _add(topics, "convert", summary, "data:convert")
    _add_source(parser)
    _add_out(parser, "directory of the shards")
    _add_number(parser, "shard-size", "samples per shard", 10_000)
    _add_switch(parser, "check", "decode every image and leave out those that cannot be")
    _add_quiet(parser)


def _add_data_inspect(topics: Any) -> None:
    summary = "layout, classes, sizes, captions and broken samples of a data source"
    parser = _add(topics, "inspect", summary, "data:inspect")
    _add_source(parser)
    text = "number of samples to read (default: all)"
    parser.add_argument("--samples", type=int, metavar="N", help=text)
    _add_number(parser, "seed", "random seed of the choice of samples", 0)
    parser.add_argument("--out", metavar="FILE", help="HTML page of thumbnails to write")
    _add_switch(parser, "overwrite", "replace an existing page")
    _add_switch(parser, "exif-orientation", "turn images upright, as their EXIF says")
    _add_switch(parser, "json", "print one JSON object")
    _add_quiet(parser)


def _add_source(parser: argparse.ArgumentParser) -> None:
    text = "data source, as in data.train: wds:DIR, parquet:DIR, …"
    parser.add_argument("source", metavar="SOURCE", help=text)
    for name, metavar, text in (
        ("image-key", "NAME", "column or feature of the image"),
        ("caption-key", "NAME", "column, feature or key of the captions"),
        ("label-key", "NAME", "column, feature or key of the labels"),
        ("image-root", "DIR", "directory that image paths start from"),
        ("split", "NAME", "split, where there are several (default: train)"),
        ("classnames", "FILE", "file of class names"),
    ):
        parser.add_argument(f"--{name}", default="", metavar=metavar, help=text)
    text = "number of the first class in the labels (default: 0)"
    parser.add_argument("--first-label", type=int, metavar="N", help=text)

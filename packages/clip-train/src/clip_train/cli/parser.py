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
    _add_resume(commands)
    _add_supernet(commands, keys)
    _add_plan(commands)
    _add_presets(commands)
    _add_translate(commands)
    data = _add(commands, "data", "draw, convert or inspect image–caption data")
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


def _add_out(parser: argparse.ArgumentParser, what: str, *, required: bool = True) -> None:
    parser.add_argument("--out", metavar="DIR", required=required, help=what)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing directory, which is renamed to DIR.old-N",
    )


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="hide progress bars")


def _add_run(commands: Any, keys: str) -> None:
    parser = _add_with_keys(commands, "run", "train a model", "training:run", keys)
    parser.add_argument(
        "config",
        metavar="PRESET-OR-TOML",
        help="preset (listed by `clip-train presets`), or TOML file",
    )
    _add_out(parser, "run directory", required=False)
    parser.add_argument(
        "--overfit-batch",
        type=int,
        metavar="N",
        help="overfit check: train on the first N samples only, without augmentation",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, load one batch and stop",
    )
    _add_quiet(parser)


def _add_resume(commands: Any) -> None:
    parser = _add(commands, "resume", "continue an interrupted run", "training:resume")
    parser.add_argument("directory", metavar="RUN", help="run directory")
    _add_quiet(parser)


def _add_supernet(commands: Any, keys: str) -> None:
    summary = "train a CLIP as a supernet and write smaller models cut from it"
    parser = _add_with_keys(commands, "supernet", summary, "training:supernet", keys)
    parser.add_argument(
        "start",
        metavar="RUN|PRESET|TOML",
        help="finished run whose model, data and config are continued; or preset or TOML file",
    )
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
    for name, kind, text in (
        ("num-random", int, "number of random subnets per step"),
        ("distill", float, "weight in [0, 1] of the largest subnet's outputs in the others' loss"),
        ("embedding", float, "weight of the distance to the largest subnet's embeddings"),
        ("population", int, "number of subnets tried for each fraction"),
        ("generations", int, "number of NSGA-II generations; more than 0 needs pymoo"),
    ):
        _add_number(parser, name, kind, text, getattr(default, name.replace("-", "_")))
    _add_quiet(parser)


def _add_plan(commands: Any) -> None:
    summary = "estimate what runs cost: tokens, FLOPs, memory, time and price"
    parser = _add(commands, "plan", summary, "training:plan")
    parser.add_argument(
        "configs", nargs="+", metavar="PRESET-OR-TOML", help="phases of a run, in order"
    )
    default = Accelerators()
    _add_number(parser, "accelerators", int, "number of accelerators", default.number)
    for name, text in (
        ("peak-tflops", "dense peak of one accelerator in TFLOP/s; A100 in bf16: 312"),
        ("utilization", "share of the peak that training reaches"),
        ("memory-gb", "memory of one accelerator in GB"),
        ("price-per-hour", "price of one accelerator for an hour, in any currency"),
    ):
        _add_number(parser, name, float, text, getattr(default, name.replace("-", "_")))
    _add_number(parser, "caption-tokens", int, "tokens of an average caption", NATURAL_CAPTION)
    parser.add_argument(
        "--num-samples", type=int, metavar="N", help="size of the data set, for lengths in epochs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_number(
    parser: argparse.ArgumentParser, name: str, kind: type, text: str, default: float
) -> None:
    parser.add_argument(
        f"--{name}", type=kind, default=default, metavar="N", help=f"{text} (default: {default:g})"
    )


def _add_presets(commands: Any) -> None:
    parser = _add(commands, "presets", "list the presets, or print one as TOML", "recipes:presets")
    parser.add_argument("name", nargs="?", metavar="NAME", help="preset to print")


def _add_translate(commands: Any) -> None:
    parser = _add(
        *(commands, "translate", "convert another system's command line or recipe to TOML"),
        "recipes:translate",
        usage=f"{PROG} translate [-h] [--processes N] SYSTEM (FILE | -- FLAGS ...)",
    )
    parser.add_argument("system", metavar="SYSTEM", help=f"one of {', '.join(SYSTEMS)}")
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="shell script or YAML file; or flags after a lone --",
    )
    _add_number(parser, "processes", int, "number of processes of the original run", 1)


def _add_data_shapes(topics: Any) -> None:
    summary = "draw a data set of colored shapes with captions; needs no download"
    parser = _add(topics, "shapes", summary, "data:shapes")
    _add_out(parser, "directory of the data set")
    for name, text, default in (
        ("train", "number of training images", 20_000),
        ("val-per-class", "number of images per held-out class", 6),
        ("image-size", "image side in pixels", 64),
        ("seed", "random seed", 0),
    ):
        _add_number(parser, name, int, text, default)
    _add_quiet(parser)


def _add_data_convert(topics: Any) -> None:
    summary = "convert a data source to WebDataset shards, or continue an interrupted conversion"
    parser = _add(topics, "convert", summary, "data:convert")
    _add_source(parser)
    _add_out(parser, "directory of the shards")
    _add_number(parser, "shard-size", int, "samples per shard", 10_000)
    parser.add_argument(
        "--check",
        action="store_true",
        help="decode every image and leave out those that cannot be",
    )
    _add_quiet(parser)


def _add_data_inspect(topics: Any) -> None:
    summary = "summarize layout, classes, sizes, captions and broken samples of a data source"
    parser = _add(topics, "inspect", summary, "data:inspect")
    _add_source(parser)
    _add_number(parser, "samples", int, "number of samples to read", 200)
    _add_number(parser, "seed", int, "random seed of the choice of samples", 0)
    parser.add_argument("--out", metavar="FILE", help="HTML page of thumbnails to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing page")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_quiet(parser)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="data source, as in data.train: wds:DIR, parquet:DIR, …"
    )
    parser.add_argument(
        "--image-key", default="", metavar="NAME", help="column or feature of the image"
    )
    parser.add_argument(
        "--caption-key", default="", metavar="NAME", help="column, feature or key of the captions"
    )
    parser.add_argument(
        "--image-root", default="", metavar="DIR", help="directory that image paths start from"
    )
    parser.add_argument("--classnames", default="", metavar="FILE", help="file of class names")

"""Options that several sub-commands share, and the kinds of number they take."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from clip_eval.data.formats import list_forms

MODEL_HELP = (
    "run or checkpoint directory, open_clip:NAME[:TAG-OR-FILE], hf:ID-OR-DIRECTORY, "
    "hf-hub:REPOSITORY, or module:factory"
)
TEMPLATES_HELP = (
    "file of caption templates, {c} for the class; JSON of class to prompts, or of data set to "
    "templates (FILE.json:NAME for one of them); or the name of a standard data set such as "
    "imagenet1k"
)
DATA_OPTIONS = (
    ("image-root", "DIR", "directory that image paths start from"),
    ("image-key", "NAME", "column, feature or extension of the images"),
    ("caption-key", "NAME", "column, feature or key of the captions"),
    ("label-key", "NAME", "column, feature or key of the labels"),
)
DATA_HELP = f"data set: {list_forms()}, or a path of recognized layout"


def add_out(
    parser: argparse.ArgumentParser, help_line: str, replaced: str, *, required: bool = True
) -> None:
    """Add `--out`, and `--overwrite`; `replaced` says what that replaces."""
    parser.add_argument("--out", required=required, type=Path, help=help_line)
    parser.add_argument("--overwrite", action="store_true", help=f"replace {replaced}")


def add_value(
    parser: argparse.ArgumentParser,
    name: str,
    kind: Callable[[str], object],
    default: int | str,
    help_line: str,
) -> None:
    """Add an option with a default, which its help line shows; a text is read as if given."""
    help_line = f"{help_line} (default: {default})"
    parser.add_argument(name, type=kind, default=default, help=help_line)


def add_results_directory(parser: argparse.ArgumentParser) -> None:
    """Add the directory of results to be read."""
    help_line = "directory with results at any depth"
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help=help_line)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device", default="auto", help="device: cpu, cuda, cuda:1, mps, or auto (default)"
    )


def add_batch_size(parser: argparse.ArgumentParser, default: int = 256) -> None:
    """Add `--batch-size`."""
    add_value(parser, "--batch-size", positive, default, "images, and prompts, per forward pass")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add `--workers`."""
    parser.add_argument(
        "--workers",
        type=not_negative,
        help="number of decoding processes (default: by the size of the data)",
    )


def add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--seed`; the help line says what is random."""
    add_value(parser, "--seed", int, 0, f"random seed of {what}")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add `--quiet`."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_json(parser: argparse.ArgumentParser, help_line: str) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help=help_line)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how data is read."""
    parser.add_argument(
        "--classnames",
        help="file of class names, or of folder<TAB>name lines, or JSON of data set to names "
        "(FILE.json:NAME for one of them); or the name of a standard data set",
    )
    parser.add_argument(
        "--split",
        help="split of the data, where there are several (default: test, or else validation)",
    )
    for name, metavar, text in DATA_OPTIONS:
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    add_exif_orientation(parser)
    parser.add_argument(
        "--first-label", type=int, help="number of the first class in the labels (default: 0)"
    )


def add_exif_orientation(parser: argparse.ArgumentParser) -> None:
    """Add `--exif-orientation`."""
    parser.add_argument(
        "--exif-orientation",
        action="store_true",
        help="turn images upright, as their EXIF says (default: as stored, like open_clip)",
    )


def data_options(arguments: argparse.Namespace) -> dict[str, object]:
    """Return those of the options of how data is read that were given, for `open_source`."""
    names = [name.replace("-", "_") for name, *_ in DATA_OPTIONS]
    found = {name: getattr(arguments, name) for name in (*names, "first_label")}
    given = {name: value for name, value in found.items() if value not in (None, "")}
    return {**given, **({"exif_orientation": True} if arguments.exif_orientation else {})}


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    value = not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("expected a number of at least 1, got 0")
    return value


def not_negative(text: str) -> int:
    """Read a whole number of at least 0."""
    if not (text.isascii() and text.isdigit()):  # int() also accepts ²
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def weight_decay(text: str) -> float:
    """Read a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def number_list(text: str) -> tuple[int, ...]:
    """Read whole numbers of at least 1, separated by commas."""
    return tuple(positive(part) for part in text.split(","))

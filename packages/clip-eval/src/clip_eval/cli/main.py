"""The ``clip-eval`` command."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clip_eval.cli.commands import (
    compare_command,
    embed_command,
    export_command,
    import_command,
    inspect_command,
    predict_command,
    report_command,
    run_command,
)
from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.formats import FORMS
from clip_eval.errors import EvaluationError
from clip_eval.tasks import TASKS

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
MODEL_HELP = (
    "run or checkpoint directory, open_clip:NAME[:TAG-OR-FILE], hf:ID-OR-DIRECTORY, "
    "hf-hub:REPOSITORY, or module:factory"
)
TEMPLATES_HELP = (
    "file of caption templates, {c} for the class; JSON of class to prompts; or a usual set such "
    "as imagenet1k"
)
DATA_HELP = f"{', '.join(FORMS)}, or a path that is recognised"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0, 2 for a user's error, 130 when interrupted)."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may be no text of this terminal's
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = arguments.command(arguments)
        return code
    except (DataError, EvaluationError, BadSample) as error:
        print(f"clip-eval: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"clip-eval: {place}{error.strerror or error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("clip-eval: interrupted; nothing unfinished was written", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clip-eval", description="Measure a CLIP, and look at the data that measures it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_run(commands.add_parser("run", help="measure models on data sets"))

    predict = commands.add_parser("predict", help="the best labels of single images")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="file or directory")
    predict.add_argument("--model", required=True, help=MODEL_HELP)
    choice = predict.add_mutually_exclusive_group(required=True)
    choice.add_argument("--labels", help="what to choose from: a,b,c")
    choice.add_argument("--classnames", help="file of labels, one a line; or a usual set")
    predict.add_argument("--templates", help=TEMPLATES_HELP)
    predict.add_argument("--top", type=_positive, default=5, help="labels per image")
    predict.add_argument("--out", type=Path, help="HTML page with the images and their labels")
    predict.add_argument("--force", action="store_true", help="replace an existing page")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    predict.set_defaults(command=predict_command)

    _add_result_commands(commands)

    inspect = commands.add_parser("inspect", help="layout, classes, counts and broken files")
    inspect.add_argument("data", help=DATA_HELP)
    _add_data_options(inspect)
    inspect.add_argument("--quiet", action="store_true", help="no progress bar")
    inspect.set_defaults(command=inspect_command)
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("--model", required=True, nargs="+", action="extend", help=MODEL_HELP)
    run.add_argument("--data", required=True, nargs="+", action="extend", help=DATA_HELP)
    run.add_argument("--out", required=True, type=Path, help="directory for the results")
    run.add_argument("--task", choices=TASKS, default="auto", help="default: what the data has")
    run.add_argument("--templates", help=TEMPLATES_HELP)
    _add_data_options(run)
    run.add_argument("--train", help="data that linear-probe and knn learn from")
    run.add_argument("--train-split", help="or the split of the same data")
    run.add_argument("--k", type=_list, default=(1, 5), help="of top-k accuracy: 1,5")
    run.add_argument("--recall-k", type=_list, default=(1, 5, 10), help="of retrieval: 1,5,10")
    run.add_argument("--neighbours", type=_positive, default=20, help="that vote in knn")
    run.add_argument("--shots", type=_positive, help="training samples per class (default: all)")
    run.add_argument("--penalty", type=_fraction, help="of linear-probe (default: by validation)")
    run.add_argument("--batch-size", type=_positive, default=256, help="images per forward")
    run.add_argument("--workers", type=_not_negative, help="processes that decode (default: auto)")
    run.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    run.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto: fp32 on the CPU, bf16 on a GPU",
    )
    run.add_argument("--cost", action="store_true", help="measure FLOPs and latency too")
    run.add_argument("--cache", type=Path, help="where embeddings are kept by content")
    run.add_argument("--no-cache", action="store_true", help="keep no embeddings")
    run.add_argument("--samples", type=_not_negative, default=24, help="images in the report")
    run.add_argument("--seed", type=int, default=0, help="of the report's images and the shots")
    run.add_argument("--force", action="store_true", help="replace results made otherwise")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    run.set_defaults(command=run_command)


def _add_result_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    embed = commands.add_parser("embed", help="write embeddings of images or texts")
    embed.add_argument("--model", required=True, help=MODEL_HELP)
    what = embed.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", help=DATA_HELP)
    what.add_argument("--texts", type=Path, help="file of texts, one a line")
    _add_data_options(embed)
    embed.add_argument("--out", required=True, type=Path, help="FILE.npz or FILE.parquet")
    embed.add_argument("--batch-size", type=_positive, default=256, help="images per forward")
    embed.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    embed.add_argument("--force", action="store_true", help="replace an existing file")
    embed.add_argument("--quiet", action="store_true", help="no progress bar")
    embed.set_defaults(command=embed_command)

    compare = commands.add_parser("compare", help="two results, sample by sample")
    compare.add_argument("first", type=Path, help="result directory, or one that holds several")
    compare.add_argument("second", type=Path, help="the same of the other model")
    compare.add_argument("--json", action="store_true", help="strict JSON, with every flip")
    compare.set_defaults(command=compare_command)

    report = commands.add_parser("report", help="one page and one table of many results")
    report.add_argument("directory", type=Path, help="holds results, at any depth")
    report.add_argument("--out", type=Path, help="the page (default: DIRECTORY/family.html)")
    report.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DATA",
        help="data set of a result, as given to run, to show its pictures; may be repeated",
    )
    report.add_argument("--samples", type=_not_negative, default=12, help="images per result")
    report.add_argument("--seed", type=int, default=0, help="which images")
    report.set_defaults(command=report_command)

    imported = commands.add_parser(
        "import-results", help="CLIP_benchmark's JSON and DataComp's lines as results of ours"
    )
    imported.add_argument("files", nargs="+", type=Path, help="FILE.json or eval_results.jsonl")
    imported.add_argument("--out", required=True, type=Path, help="directory for the results")
    imported.add_argument("--force", action="store_true", help="replace existing results")
    imported.set_defaults(command=import_command)

    export = commands.add_parser("export", help="results as one CSV, or as CLIP_benchmark's JSON")
    export.add_argument("directory", type=Path, help="holds results, at any depth")
    export.add_argument("--csv", type=Path, help="the table that CLIP_benchmark's build writes")
    export.add_argument("--json", type=Path, help="directory of files that its build reads")
    export.set_defaults(command=export_command)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--classnames",
        help="file of class names, or folder<TAB>name on each line; or a usual set",
    )
    parser.add_argument("--split", help="which split, where the data has several")


def _positive(text: str) -> int:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("expected a number of at least 1, got 0")
    return value


def _not_negative(text: str) -> int:
    if not (text.isascii() and text.isdigit()):  # int() reads no ²
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def _list(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))

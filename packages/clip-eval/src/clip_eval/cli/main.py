"""The `clip-eval` command: its parser. The work is imported when a sub-command is called."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from clip_models import CheckpointError, ConfigError
from clip_models.command_line import EXIT_FAILED, CommandParser, call_named, one_line, run_command

from clip_eval.cli.options import (
    DATA_HELP,
    MODEL_HELP,
    TEMPLATES_HELP,
    add_batch_size,
    add_data_options,
    add_device,
    add_exif_orientation,
    add_json,
    add_out,
    add_quiet,
    add_results_directory,
    add_seed,
    add_value,
    add_workers,
    not_negative,
    number_list,
    positive,
    weight_decay,
)
from clip_eval.data.faults import BadSample, DataError
from clip_eval.errors import EvaluationError, WorkerError
from clip_eval.tasks.config import TASKS

PROG = "clip-eval"
USER_ERRORS = (DataError, EvaluationError, BadSample, CheckpointError, ConfigError)

SubCommands = argparse._SubParsersAction  # argparse has no public name for it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    return run_command(PROG, lambda: _call(argv), USER_ERRORS)


def _call(argv: Sequence[str] | None) -> int | None:
    arguments = make_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _print_warning  # type: ignore[assignment]
        try:
            return call_named(f"clip_eval.cli.{arguments.function}", arguments)
        except WorkerError as error:  # not the user's mistake
            print(f"{PROG}: error: {one_line(error)}", file=sys.stderr)
            return EXIT_FAILED


def _print_warning(message: Warning | str, *_: object) -> None:
    """Print a warning as one line, without the line of code that raised it."""
    print(f"{PROG}: warning: {one_line(message)}", file=sys.stderr)


def make_parser() -> CommandParser:
    """Make the parser of all sub-commands."""
    parser = CommandParser(
        prog=PROG, description="Evaluate CLIP models, and inspect the data that measures them."
    )
    parser.add_version(PROG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_predict(commands)
    _add_embed(commands)
    _add_search(commands)
    _add_inspect(commands)
    _add_compare(commands)
    _add_report(commands)
    _add_exchange(commands)
    return parser


def _add_run(commands: SubCommands[CommandParser]) -> None:
    run = commands.add_parser(
        "run",
        help="evaluation of models on data sets",
        description="Evaluate models on data sets; results, predictions and a page go to --out.",
    )
    run.set_defaults(function="model_commands:evaluate_models")
    run.add_argument("--model", required=True, nargs="+", action="extend", help=MODEL_HELP)
    run.add_argument("--data", required=True, nargs="+", action="extend", help=DATA_HELP)
    add_out(run, "directory for the results", "results with other settings")
    add_data_options(run)
    _add_task_options(run)
    _add_forward_options(run)
    run.add_argument(
        "--cost", action="store_true", help="measure parameters, FLOPs and latency too"
    )
    add_value(run, "--samples", not_negative, 24, "number of images in the report")
    add_seed(run, "the report's images, the shots and the validation split")
    add_json(run, "one JSON object per result instead of tables")
    add_quiet(run)


def _add_task_options(run: CommandParser) -> None:
    run.add_argument(
        "--task",
        choices=TASKS,
        default="auto",
        help="task (default: that of the first readable sample)",
    )
    run.add_argument("--templates", help=TEMPLATES_HELP)
    run.add_argument("--train", help="training data of linear-probe and knn")
    run.add_argument(
        "--train-split", help="split of the training data, which is --data without --train"
    )
    add_value(run, "--k", number_list, "1,5", "values of k for top-k accuracy")
    add_value(run, "--recall-k", number_list, "1,5,10", "values of k for retrieval recall")
    add_value(run, "--neighbours", positive, 20, "number of neighbours for kNN")
    run.add_argument(
        "--shots", type=positive, help="number of training samples per class (default: all)"
    )
    run.add_argument(
        "--penalty", type=weight_decay, help="L2 penalty of linear-probe (default: by validation)"
    )


def _add_forward_options(run: CommandParser) -> None:
    add_batch_size(run)
    add_workers(run)
    add_device(run)
    run.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="precision of the forward pass; auto: fp32 on a CPU, bf16 on a GPU",
    )
    run.add_argument("--cache", type=Path, help="directory of the embedding cache")
    run.add_argument("--no-cache", action="store_true", help="no embedding cache")


def _add_predict(commands: SubCommands[CommandParser]) -> None:
    predict = commands.add_parser(
        "predict",
        help="best labels of single images",
        description="Choose the best of the given labels for single images.",
    )
    predict.set_defaults(function="model_commands:label_images")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="file or directory")
    predict.add_argument("--model", required=True, help=MODEL_HELP)
    choice = predict.add_mutually_exclusive_group(required=True)
    choice.add_argument("--labels", help="labels to choose from: a,b,c")
    choice.add_argument(
        "--classnames", help="file of labels, one a line; or the name of a standard data set"
    )
    predict.add_argument("--templates", help=TEMPLATES_HELP)
    add_value(predict, "--top", positive, 5, "number of labels per image")
    add_exif_orientation(predict)
    page = "HTML page with the images and their labels"
    add_out(predict, page, "an existing page", required=False)
    add_json(predict, "one JSON object per image")
    add_batch_size(predict, 64)
    add_device(predict)


def _add_embed(commands: SubCommands[CommandParser]) -> None:
    embed = commands.add_parser(
        "embed",
        help="embeddings of images or texts in a file",
        description="Write the embeddings of images or texts to a file.",
    )
    embed.set_defaults(function="search_commands:write_embeddings_of")
    embed.add_argument(
        "photos",
        nargs="*",
        type=Path,
        metavar="PHOTO",
        help="image file, or folder with images at any depth; without class names",
    )
    embed.add_argument("--model", required=True, help=MODEL_HELP)
    embed.add_argument("--data", help=DATA_HELP)
    embed.add_argument("--texts", type=Path, help="file of texts, one a line")
    add_data_options(embed)
    add_out(embed, "FILE.npz or FILE.parquet; a directory with --rows-per-file", "an existing file")
    embed.add_argument(
        "--rows-per-file",
        type=positive,
        metavar="N",
        help="write a directory with a file for every N samples, which any number of processes "
        "may make; files that are there are kept",
    )
    embed.add_argument(
        "--task",
        metavar="I/N",
        help="with --rows-per-file: this process is the I-th of N (default: as Slurm's job array "
        "or torchrun says, else 1/1)",
    )
    embed.add_argument(
        "--format", choices=["npz", "parquet"], help="of the files of --rows-per-file (npz)"
    )
    embed.add_argument(
        "--thumbnails",
        type=not_negative,
        metavar="PIXELS",
        help="size of the pictures kept for the pages of search; 0 keeps none (default: 160 for "
        "photos, 0 for --data)",
    )
    add_batch_size(embed)
    add_workers(embed)
    add_device(embed)
    add_quiet(embed)


def _add_search(commands: SubCommands[CommandParser]) -> None:
    search = commands.add_parser(
        "search",
        help="best images for words or for an image, among embedded ones",
        description="Find images by words or by an image, among those of clip-eval embed.",
    )
    search.set_defaults(function="search_commands:search_images")
    search.add_argument("words", nargs="*", metavar="WORDS", help='query, as in "a red bus"')
    search.add_argument(
        "--in",
        dest="embeddings",
        required=True,
        type=Path,
        metavar="EMBEDDINGS",
        help="file or directory of clip-eval embed",
    )
    search.add_argument(
        "--image", nargs="+", action="extend", default=[], type=Path, help="image as a query"
    )
    search.add_argument(
        "--model", help=f"{MODEL_HELP} (default: the one that made the embeddings here)"
    )
    add_value(search, "--top", positive, 10, "number of images per query")
    search.add_argument(
        "--index",
        type=Path,
        metavar="FILE",
        help="index by faiss, built where there is no such file: approximate, fast for millions",
    )
    search.add_argument(
        *("--html", "--out"),
        dest="out",
        nargs="?",
        const=Path("search.html"),
        type=Path,
        help="page with the pictures that were kept (default name: search.html)",
    )
    search.add_argument("--overwrite", action="store_true", help="replace an existing page")
    add_json(search, "one JSON object per query")
    add_device(search)


def _add_inspect(commands: SubCommands[CommandParser]) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="layout, classes, sizes, captions and broken files of a data set",
        description="Summarize layout, classes, sizes, captions and broken files of a data set.",
    )
    inspect.set_defaults(function="data_commands:inspect_data")
    inspect.add_argument("data", metavar="DATA", help=DATA_HELP)
    add_data_options(inspect)
    inspect.add_argument(
        "--samples", type=positive, help="number of samples to read (default: all)"
    )
    add_seed(inspect, "the choice of samples")
    add_out(inspect, "HTML page of thumbnails", "an existing page", required=False)
    add_json(inspect, "one JSON object")
    add_quiet(inspect)


def _add_compare(commands: SubCommands[CommandParser]) -> None:
    compare = commands.add_parser(
        "compare",
        help="paired comparison of two results",
        description="Compare two results on the same samples, with a paired test.",
    )
    compare.set_defaults(function="result_commands:compare")
    compare.add_argument(
        "first", type=Path, metavar="FIRST", help="result directory, or a directory of several"
    )
    compare.add_argument("second", type=Path, metavar="SECOND", help="the same of the other model")
    add_json(compare, "JSON with every flipped sample")


def _add_report(commands: SubCommands[CommandParser]) -> None:
    report = commands.add_parser(
        "report",
        help="page and table of many results",
        description="Write a page and a table of many results.",
    )
    report.set_defaults(function="result_commands:report")
    add_results_directory(report)
    page = "HTML page, with a markdown table beside it (default: DIRECTORY/family.html)"
    add_out(report, page, "an existing page and table", required=False)
    report.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DATA",
        help="data set of a result, spelled as in run, to show its images; may be repeated",
    )
    add_value(report, "--samples", not_negative, 12, "number of images per result")
    add_seed(report, "the choice of images")


def _add_exchange(commands: SubCommands[CommandParser]) -> None:
    imported = commands.add_parser(
        "import-results",
        help="results of CLIP_benchmark (JSON) and DataComp (JSON lines)",
        description="Import results of CLIP_benchmark (JSON) and DataComp (JSON lines).",
    )
    imported.set_defaults(function="result_commands:import_files")
    imported.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="FILE.json or eval_results.jsonl"
    )
    add_out(imported, "directory for the results", "existing results")

    export = commands.add_parser(
        "export",
        help="results in the files of CLIP_benchmark",
        description="Write results as one table, or as the files of CLIP_benchmark.",
    )
    export.set_defaults(function="result_commands:export")
    add_results_directory(export)
    files = "FILE.csv for one table, or a directory for one JSON file per result"
    add_out(export, files, "an existing table or directory")

"""The ``clip-eval`` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from clip_eval.campaign import Campaign, Outcome, open_data, run_campaign
from clip_eval.class_names import ClassList
from clip_eval.comparison import compare_results, format_comparison, pair_results
from clip_eval.embedding import Reading
from clip_eval.embedding_cache import cache_directory
from clip_eval.embedding_files import embed_source, embed_texts, write_embeddings
from clip_eval.encoder import Encoder, Precision
from clip_eval.exchange import export_csv, export_json, import_results
from clip_eval.family_report import render_family
from clip_eval.faults import BadSample, DataError, EvaluationError
from clip_eval.image_files import ImageFiles
from clip_eval.inspection import format_inspection, inspect_source
from clip_eval.model_directory import load_for_evaluation
from clip_eval.output_files import (
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESULT_FILE,
    write_json,
    write_text,
)
from clip_eval.prediction import format_predictions, predict, render_predictions
from clip_eval.processes import joined_processes
from clip_eval.prompts import DEFAULT_TEMPLATES, read_prompts, read_text
from clip_eval.questions import Question
from clip_eval.result_files import find_results
from clip_eval.results import finite
from clip_eval.samples import Source
from clip_eval.sources import FORMS
from clip_eval.table import format_result, format_table
from clip_eval.tasks import TASKS

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_FAILED = 1
FAMILY_FILE = "family.html"
MODEL_HELP = (
    "run or checkpoint directory, open_clip:NAME[:TAG-OR-FILE], hf:ID-OR-DIRECTORY, "
    "hf-hub:REPOSITORY, or module:factory"
)
DATA_HELP = f"{', '.join(FORMS)}, or a path that is recognised"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0, 2 for a user's error, 130 when interrupted)."""
    arguments = _parser().parse_args(argv)
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
        print("clip-eval: interrupted; no result was written", file=sys.stderr)
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
    choice.add_argument("--classnames", type=Path, help="file of labels, one a line")
    predict.add_argument("--templates", type=Path, help="file of caption templates")
    predict.add_argument("--top", type=_positive, default=5, help="labels per image")
    predict.add_argument("--out", type=Path, help="HTML page with the images and their labels")
    predict.add_argument("--force", action="store_true", help="replace an existing page")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    predict.set_defaults(command=_predict)

    _add_result_commands(commands)

    inspect = commands.add_parser("inspect", help="layout, classes, counts and broken files")
    inspect.add_argument("data", help=DATA_HELP)
    _add_data_options(inspect)
    inspect.add_argument("--quiet", action="store_true", help="no progress bar")
    inspect.set_defaults(command=_inspect)
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("--model", required=True, nargs="+", action="extend", help=MODEL_HELP)
    run.add_argument("--data", required=True, nargs="+", action="extend", help=DATA_HELP)
    run.add_argument("--out", required=True, type=Path, help="directory for the results")
    run.add_argument("--task", choices=TASKS, default="auto", help="default: what the data has")
    run.add_argument(
        "--templates",
        help="file of caption templates, {c} for the class; JSON of class to prompts; or a "
        "usual set such as imagenet1k",
    )
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
    run.set_defaults(command=_run)


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
    embed.set_defaults(command=_embed)

    compare = commands.add_parser("compare", help="two results, sample by sample")
    compare.add_argument("first", type=Path, help="result directory, or one that holds several")
    compare.add_argument("second", type=Path, help="the same of the other model")
    compare.add_argument("--json", action="store_true", help="strict JSON, with every flip")
    compare.set_defaults(command=_compare)

    report = commands.add_parser("report", help="one page and one table of many results")
    report.add_argument("directory", type=Path, help="holds results, at any depth")
    report.add_argument("--out", type=Path, help="the page (default: DIRECTORY/family.html)")
    report.add_argument("--samples", type=_not_negative, default=12, help="images per result")
    report.add_argument("--seed", type=int, default=0, help="which images")
    report.set_defaults(command=_report)

    imported = commands.add_parser(
        "import-results", help="CLIP_benchmark's JSON and DataComp's lines as results of ours"
    )
    imported.add_argument("files", nargs="+", type=Path, help="FILE.json or eval_results.jsonl")
    imported.add_argument("--out", required=True, type=Path, help="directory for the results")
    imported.add_argument("--force", action="store_true", help="replace existing results")
    imported.set_defaults(command=_import)

    export = commands.add_parser("export", help="results as one CSV, or as CLIP_benchmark's JSON")
    export.add_argument("directory", type=Path, help="holds results, at any depth")
    export.add_argument("--csv", type=Path, help="the table that CLIP_benchmark's build writes")
    export.add_argument("--json", type=Path, help="directory of files that its build reads")
    export.set_defaults(command=_export)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--classnames",
        help="file of class names, or folder<TAB>name on each line; or a usual set",
    )
    parser.add_argument("--split", help="which split, where the data has several")


def _run(arguments: argparse.Namespace) -> int:
    with joined_processes() as processes:
        device = _device(arguments.device, processes.local_rank)
        campaign = Campaign(
            models=tuple(arguments.model),
            data=tuple(arguments.data),
            out=arguments.out,
            task=arguments.task,
            templates=arguments.templates,
            classnames=arguments.classnames,
            split=arguments.split,
            train=arguments.train,
            train_split=arguments.train_split,
            question=Question(
                ks=arguments.k,
                recall_ks=arguments.recall_k,
                neighbours=arguments.neighbours,
                shots=arguments.shots,
                penalty=arguments.penalty,
                seed=arguments.seed,
            ),
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            device=device,
            precision=_precision(arguments.precision, device),
            cache=None if arguments.no_cache else arguments.cache or cache_directory(),
            cost=arguments.cost,
            samples=arguments.samples,
            seed=arguments.seed,
            force=arguments.force,
            progress=not arguments.quiet,
        )
        outcomes = run_campaign(campaign, processes, _print_single if campaign.single else _print)
        if processes.first and not campaign.single:
            print(format_table([o.record for o in outcomes if o.record is not None]))
    return EXIT_FAILED if any(outcome.error for outcome in outcomes) else 0


def _print_single(outcome: Outcome) -> None:
    if outcome.result is None:
        print(f"kept {outcome.directory / RESULT_FILE}: same weights, prompts and samples")
        return
    print(format_result(outcome.result))
    print(f"\nwrote {outcome.directory / RESULT_FILE}, {PREDICTIONS_FILE}, {REPORT_FILE}")


def _print(outcome: Outcome) -> None:
    where = f"{outcome.model} on {outcome.data}"
    if outcome.error:
        print(f"clip-eval: {where}: {' '.join(outcome.error.split())}", file=sys.stderr)
    else:
        print(f"{'kept' if outcome.kept else 'wrote'} {outcome.directory / RESULT_FILE}: {where}")


def _predict(arguments: argparse.Namespace) -> int:
    if arguments.out is not None and arguments.out.exists() and not arguments.force:
        raise EvaluationError(f"{arguments.out} exists already; choose another --out, or --force")
    given = None if arguments.templates is None else read_prompts(arguments.templates)
    source = ImageFiles(arguments.images)
    labels = _labels(arguments)
    device = _device(arguments.device)
    loaded = load_for_evaluation(arguments.model, device=device)
    templates = given or loaded.templates
    found = predict(
        loaded.model,
        source,
        labels,
        tokenizer=loaded.tokenizer,
        preprocess=loaded.preprocess,
        templates=templates or DEFAULT_TEMPLATES,
        top=arguments.top,
        device=device,
    )
    if arguments.out is not None:
        write_text(arguments.out, render_predictions(found, source, f"Labels by {loaded.name}"))
    if arguments.json:
        for image in found.images:
            print(json.dumps(image.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        print(format_predictions(found))
    if not found.images:
        raise EvaluationError(f"none of the {len(source)} images could be used")
    return 0


def _embed(arguments: argparse.Namespace) -> int:
    if arguments.out.exists() and not arguments.force:
        raise EvaluationError(f"{arguments.out} exists already; choose another --out, or --force")
    device = _device(arguments.device)
    loaded = load_for_evaluation(arguments.model, device=device)
    encoder = Encoder(
        loaded.model,
        loaded.tokenizer,
        loaded.preprocess,
        device=device,
        batch_size=arguments.batch_size,
    )
    if arguments.texts is not None:
        lines = [line for line in read_text(arguments.texts).splitlines() if line.strip()]
        found = embed_texts(encoder, lines)
    else:
        reading = Reading(batch_size=arguments.batch_size, progress=not arguments.quiet)
        found = embed_source(encoder, _open(arguments), reading)
    write_embeddings(arguments.out, found)
    n, width = found.features.shape
    print(f"wrote {arguments.out}: {n:,} embeddings of {width}, {len(found.skipped):,} skipped")
    for skipped in found.skipped:
        print(f"skipped: {skipped.key}: {skipped.reason}: {skipped.detail}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    pairs = pair_results(find_results(arguments.first), find_results(arguments.second))
    found = [compare_results(first, second) for first, second in pairs]
    if arguments.json:
        records = [finite(one.to_dict()) for one in found]
        print(json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print("\n\n".join(map(format_comparison, found)))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    stored = find_results(arguments.directory)
    out = arguments.out or arguments.directory / FAMILY_FILE
    title = f"Results in {arguments.directory.resolve().name}"
    page = render_family(stored, title=title, samples=arguments.samples, seed=arguments.seed)
    table = format_table([one.record for one in stored])
    write_text(out, page)
    write_text(out.with_suffix(".md"), f"# {title}\n\n{table}\n")
    print(table)
    print(f"\nwrote {out}, {out.with_suffix('.md').name}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    for path in import_results(arguments.files, arguments.out, force=arguments.force):
        print(f"wrote {path}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    if arguments.csv is None and arguments.json is None:
        raise EvaluationError("export needs --csv FILE or --json DIRECTORY")
    stored = find_results(arguments.directory)
    if arguments.csv is not None:
        write_text(arguments.csv, export_csv([one.record for one in stored]))
    for number, one in enumerate(stored if arguments.json is not None else ()):
        write_json(arguments.json / f"{number:04d}.json", export_json(one.record))
    print(f"wrote {len(stored)} results")
    return 0


def _labels(arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.classnames is not None:
        return ClassList.read(arguments.classnames).names
    labels = tuple(label.strip() for label in arguments.labels.split(","))
    if not all(labels):
        raise EvaluationError(f"--labels {arguments.labels!r}: expected names between commas")
    return labels


def _inspect(arguments: argparse.Namespace) -> int:
    found = inspect_source(_open(arguments), progress=not arguments.quiet)
    print(format_inspection(found))
    return 0


def _open(arguments: argparse.Namespace) -> Source:
    source, _ = open_data(arguments.data, classnames=arguments.classnames, split=arguments.split)
    return source


def _device(name: str, local_rank: int = 0) -> str:
    if name == "auto":
        return f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EvaluationError(
            f"--device {name} cannot be used ({str(error).splitlines()[0]}); try cpu"
        ) from error
    return name


def _precision(name: str, device: str) -> Precision:
    if name == "auto":
        return "bf16" if device.startswith("cuda") else "fp32"
    return name  # type: ignore[return-value]


def _positive(text: str) -> int:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("expected a number of at least 1, got 0")
    return value


def _not_negative(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def _list(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))

"""The ``clip-eval`` command."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from clip_eval.class_names import ClassList
from clip_eval.evaluation import evaluate
from clip_eval.faults import BadSample, DataError, EvaluationError
from clip_eval.image_files import ImageFiles
from clip_eval.inspection import format_inspection, inspect_source
from clip_eval.model_directory import load_for_evaluation
from clip_eval.output_files import (
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESULT_FILE,
    prepare_output,
    write_json,
    write_json_lines,
    write_text,
)
from clip_eval.prediction import format_predictions, predict, render_predictions
from clip_eval.prompts import DEFAULT_TEMPLATES, read_templates
from clip_eval.report import render_report
from clip_eval.samples import Source
from clip_eval.sources import FORMS, open_source
from clip_eval.table import format_result

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
SMALL_DATA = 2000


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

    run = commands.add_parser("run", help="measure a model on a data set")
    run.add_argument("--model", required=True, type=Path, help="run or checkpoint directory")
    _add_data(run)
    run.add_argument("--out", required=True, type=Path, help="directory for the result")
    run.add_argument("--templates", type=Path, help="file of caption templates, {c} for the class")
    run.add_argument("--batch-size", type=_positive, default=256, help="images per forward")
    run.add_argument("--workers", type=_not_negative, help="processes that decode (default: auto)")
    run.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    run.add_argument("--samples", type=_not_negative, default=24, help="images in the report")
    run.add_argument("--seed", type=int, default=0, help="which images the report shows")
    run.add_argument("--force", action="store_true", help="replace an existing result")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    run.set_defaults(command=_run)

    predict = commands.add_parser("predict", help="the best labels of single images")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="file or directory")
    predict.add_argument("--model", required=True, type=Path, help="run or checkpoint directory")
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

    inspect = commands.add_parser("inspect", help="layout, classes, counts and broken files")
    _add_data(inspect, positional=True)
    inspect.add_argument("--quiet", action="store_true", help="no progress bar")
    inspect.set_defaults(command=_inspect)
    return parser


def _add_data(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    forms = f"{', '.join(FORMS)}, or a path that is recognised"
    if positional:
        parser.add_argument("data", help=forms)
    else:
        parser.add_argument("--data", required=True, help=forms)
    parser.add_argument(
        "--classnames", type=Path, help="file of class names, or folder<TAB>name on each line"
    )
    parser.add_argument("--split", help="which split, where the data has several")


def _run(arguments: argparse.Namespace) -> int:
    prepare_output(arguments.out, force=arguments.force)
    given = None if arguments.templates is None else read_templates(arguments.templates)
    source = _open(arguments)

    device = _device(arguments.device)
    loaded = load_for_evaluation(arguments.model, device=device)
    templates, origin = _choose_templates(given, loaded.templates, source.templates)
    workers = _workers(arguments.workers, len(source))
    result = evaluate(
        loaded.model,
        source,
        tokenizer=loaded.tokenizer,
        preprocess=loaded.preprocess,
        templates=templates,
        batch_size=arguments.batch_size,
        device=device,
        workers=workers,
        keep_predictions=True,
        progress=not arguments.quiet,
        model_name=loaded.name,
    )
    result = replace(
        result,
        settings={
            "model_path": str(arguments.model),
            "weights_sha256": loaded.weights_sha256(),
            "data": arguments.data,
            "split": arguments.split,
            "templates_from": origin,
            "batch_size": arguments.batch_size,
            "workers": workers,
            "device": device,
            "precision": str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
            **_versions(),
        },
    )
    report = render_report(
        result, source, run_directory=loaded.path, samples=arguments.samples, seed=arguments.seed
    )
    write_json_lines(arguments.out / PREDICTIONS_FILE, result.prediction_records())
    write_text(arguments.out / REPORT_FILE, report)
    write_json(arguments.out / RESULT_FILE, result.to_dict())
    print(format_result(result))
    print(f"\nwrote {arguments.out / RESULT_FILE}, {PREDICTIONS_FILE}, {REPORT_FILE}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    if arguments.out is not None and arguments.out.exists() and not arguments.force:
        raise EvaluationError(f"{arguments.out} exists already; choose another --out, or --force")
    given = None if arguments.templates is None else read_templates(arguments.templates)
    source = ImageFiles(arguments.images)
    labels = _labels(arguments)
    device = _device(arguments.device)
    loaded = load_for_evaluation(arguments.model, device=device)
    templates, _ = _choose_templates(given, loaded.templates, None)
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
    names = None if arguments.classnames is None else ClassList.read(arguments.classnames)
    return open_source(arguments.data, classnames=names, split=arguments.split)


def _choose_templates(
    given: tuple[str, ...] | None,
    saved: tuple[str, ...] | None,
    with_data: tuple[str, ...] | None,
) -> tuple[tuple[str, ...] | None, str]:
    """The templates to use (None: the default, with its warning), and where they are from."""
    if given is not None:
        return given, "--templates"
    if saved is not None:
        return saved, "saved with the model"
    if with_data is not None:
        return with_data, "beside the data"
    return None, f"default {DEFAULT_TEMPLATES[0]!r}"


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EvaluationError(
            f"--device {name} cannot be used ({str(error).splitlines()[0]}); try cpu"
        ) from error
    return name


def _workers(asked: int | None, n: int) -> int:
    if asked is not None:
        return asked
    return 0 if n < SMALL_DATA else min(4, os.cpu_count() or 1)


def _versions() -> dict[str, str]:
    packages = ("clip-eval", "clip-models", "clip-tokenizer", "torch", "torchvision", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _positive(text: str) -> int:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("expected a number of at least 1, got 0")
    return value


def _not_negative(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)

"""What each command of ``clip-eval`` does; every function gives an exit code."""

from __future__ import annotations

import argparse
import json
import sys

import torch

from clip_eval.campaign import Campaign, Outcome, run_campaign
from clip_eval.data.class_names import ClassList
from clip_eval.data.image_files import ImageFiles
from clip_eval.data.samples import Source
from clip_eval.data.templates import DEFAULT_TEMPLATES, read_text
from clip_eval.encoding.cache import cache_directory
from clip_eval.encoding.embed import Reading
from clip_eval.encoding.encoder import Encoder, Precision
from clip_eval.encoding.files import embed_source, embed_texts, write_embeddings, writer_of
from clip_eval.errors import EvaluationError
from clip_eval.models.directory import load_for_evaluation
from clip_eval.prediction import format_predictions, predict, render_predictions
from clip_eval.processes import joined_processes
from clip_eval.prompts.named_data import given_classes, given_templates, open_data
from clip_eval.prompts.prompt_sets import PromptSet
from clip_eval.report.comparison import compare_results, format_comparison, pair_results
from clip_eval.report.family import render_family
from clip_eval.report.inspection import format_inspection, inspect_source
from clip_eval.report.table import format_result, format_table
from clip_eval.results.exchange import export_csv, export_json, import_results
from clip_eval.results.output_files import (
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESULT_FILE,
    write_json,
    write_text,
)
from clip_eval.results.result import finite
from clip_eval.results.stored import find_results
from clip_eval.tasks.questions import Question

EXIT_FAILED = 1
FAMILY_FILE = "family.html"


def run_command(arguments: argparse.Namespace) -> int:
    """Measure models on data sets."""
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


def predict_command(arguments: argparse.Namespace) -> int:
    """Label single images."""
    if arguments.out is not None and arguments.out.exists() and not arguments.force:
        raise EvaluationError(f"{arguments.out} exists already; choose another --out, or --force")
    given, _ = given_templates(arguments.templates)
    source = ImageFiles(arguments.images)
    classes, usual = _labels(arguments)
    device = _device(arguments.device)
    loaded = load_for_evaluation(arguments.model, device=device)
    templates = given or loaded.templates or (usual and usual.templates)
    found = predict(
        loaded.model,
        source,
        classes.names,
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
        for s in found.skipped:
            print(f"skipped: {s.key}: {s.reason}: {s.detail}", file=sys.stderr)
    else:
        print(format_predictions(found))
    if not found.images:
        raise EvaluationError(f"none of the {len(source)} images could be used")
    return 0


def embed_command(arguments: argparse.Namespace) -> int:
    """Write embeddings."""
    if arguments.out.exists() and not arguments.force:
        raise EvaluationError(f"{arguments.out} exists already; choose another --out, or --force")
    writer_of(arguments.out)  # before any work
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
        lines = [line for line in read_text(arguments.texts).split("\n") if line.strip()]
        if not lines:
            raise EvaluationError(f"{arguments.texts}: expected at least one text, got none")
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


def compare_command(arguments: argparse.Namespace) -> int:
    """Compare results."""
    pairs = pair_results(find_results(arguments.first), find_results(arguments.second))
    found = [compare_results(first, second) for first, second in pairs]
    if arguments.json:
        records = [finite(one.to_dict()) for one in found]
        print(json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print("\n\n".join(map(format_comparison, found)))
    return 0


def report_command(arguments: argparse.Namespace) -> int:
    """Put results on one page."""
    stored = find_results(arguments.directory)
    out = arguments.out or arguments.directory / FAMILY_FILE
    if out.suffix == ".md":
        raise EvaluationError(f"--out {out}: expected the page, FILE.html; its table is FILE.md")
    title = f"Results in {arguments.directory.resolve().name}"
    page = render_family(
        stored,
        title=title,
        data=arguments.data,
        samples=arguments.samples,
        seed=arguments.seed,
    )
    table = format_table([one.record for one in stored])
    write_text(out, page)
    write_text(out.with_suffix(".md"), f"# {title}\n\n{table}\n")
    print(table)
    print(f"\nwrote {out}, {out.with_suffix('.md').name}")
    if not arguments.data:
        print("without pictures: name the data of a result with --data to show its images")
    return 0


def import_command(arguments: argparse.Namespace) -> int:
    """Read other tools' results."""
    for path in import_results(arguments.files, arguments.out, force=arguments.force):
        print(f"wrote {path}")
    return 0


def export_command(arguments: argparse.Namespace) -> int:
    """Write results for other tools."""
    if arguments.csv is None and arguments.json is None:
        raise EvaluationError("export needs --csv FILE or --json DIRECTORY")
    stored = find_results(arguments.directory)
    if arguments.csv is not None:
        write_text(arguments.csv, export_csv([one.record for one in stored]))
    for number, one in enumerate(stored if arguments.json is not None else ()):
        write_json(arguments.json / f"{number:04d}.json", export_json(one.record))
    print(f"wrote {len(stored)} results")
    return 0


def _labels(arguments: argparse.Namespace) -> tuple[ClassList, PromptSet | None]:
    if arguments.classnames is not None:
        return given_classes(arguments.classnames)
    labels = [label.strip() for label in arguments.labels.split(",")]
    if not all(labels):
        raise EvaluationError(f"--labels {arguments.labels!r}: expected names between commas")
    classes = ClassList.of(labels)
    if classes.duplicates():
        twice = ", ".join(classes.duplicates())
        raise EvaluationError(
            f"--labels {arguments.labels!r}: expected each once, got {twice} twice"
        )
    return classes, None


def inspect_command(arguments: argparse.Namespace) -> int:
    """Look at a data set."""
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

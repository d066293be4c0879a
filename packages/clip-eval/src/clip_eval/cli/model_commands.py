"""Sub-commands of `clip-eval` that run a model."""

from __future__ import annotations

import argparse
import json
import sys

from clip_models.command_line import EXIT_DONE, EXIT_FAILED, Launch, one_line
from clip_models.devices import choose_device

from clip_eval.cli.options import data_options
from clip_eval.data.class_names import ClassList
from clip_eval.data.readers.image_files import ImageFiles
from clip_eval.data.templates import DEFAULT_TEMPLATES
from clip_eval.encoding.batches import LoaderConfig
from clip_eval.encoding.cache import cache_directory
from clip_eval.encoding.encoder import Precision, make_encoder
from clip_eval.errors import EvaluationError
from clip_eval.evaluation.processes import join_processes
from clip_eval.models.directory import load_for_evaluation
from clip_eval.plurals import count_noun
from clip_eval.prompts.dataset_files import DatasetTemplates
from clip_eval.prompts.named_data import read_class_list, read_template_list
from clip_eval.prompts.prompt_sets import PromptSet
from clip_eval.report.predictions import format_predictions, render_predictions
from clip_eval.report.result_table import format_tables
from clip_eval.report.table import format_metric, format_result
from clip_eval.results.files import (
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESULT_FILE,
    refuse_existing,
    write_text,
)
from clip_eval.results.result import replace_non_finite, result_from_record
from clip_eval.runs.config import EvaluationRun, Outcome
from clip_eval.runs.run import run_evaluations
from clip_eval.tasks.config import TaskConfig
from clip_eval.tasks.prediction import predict


def evaluate_models(arguments: argparse.Namespace) -> int:
    """Evaluate models on data sets."""
    try:
        with join_processes() as processes:
            run = _make_run(arguments, processes)
            show = _print_single if run.is_single else _print_one_of_several
            outcomes = run_evaluations(run, processes, _print_json if arguments.json else show)
            if processes.is_first and not run.is_single and not arguments.json:
                print(format_tables([o.record for o in outcomes if o.record is not None]))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; nothing unfinished was written") from None
    return EXIT_FAILED if any(outcome.error for outcome in outcomes) else EXIT_DONE


def _make_run(arguments: argparse.Namespace, processes: Launch) -> EvaluationRun:
    device = str(choose_device(arguments.device, local_rank=processes.local_rank))
    return EvaluationRun(
        models=tuple(arguments.model),
        data=tuple(arguments.data),
        out=arguments.out,
        task=TaskConfig(
            task=arguments.task,
            ks=arguments.k,
            recall_ks=arguments.recall_k,
            neighbors=arguments.neighbours,
            shots=arguments.shots,
            penalty=arguments.penalty,
            seed=arguments.seed,
        ),
        templates=arguments.templates,
        classnames=arguments.classnames,
        split=arguments.split,
        data_options=data_options(arguments),
        train=arguments.train,
        train_split=arguments.train_split,
        loader=LoaderConfig(
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            progress=not arguments.quiet,
        ),
        device=device,
        precision=_precision(arguments.precision, device),
        cache=None if arguments.no_cache else arguments.cache or cache_directory(),
        cost=arguments.cost,
        samples=arguments.samples,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
    )


def _precision(name: str, device: str) -> Precision:
    if name == "auto":
        return "bf16" if device.startswith("cuda") else "fp32"
    return name  # type: ignore[return-value]


def _print_single(outcome: Outcome) -> None:
    assert outcome.record is not None
    print(format_result(outcome.result or result_from_record(outcome.record)))
    if outcome.kept:
        print(f"\nkept {outcome.directory / RESULT_FILE}: same weights, prompts and samples")
        return
    print(f"\nwrote {outcome.directory / RESULT_FILE}, {PREDICTIONS_FILE}, {REPORT_FILE}")


def _print_one_of_several(outcome: Outcome) -> None:
    if outcome.error:
        _print_error(outcome)
    else:
        verb = "kept" if outcome.kept else "wrote"
        path, number = outcome.directory / RESULT_FILE, format_metric(outcome.record or {})
        print(f"{verb} {path}: {outcome.model} on {outcome.data}: {number}")


def _print_json(outcome: Outcome) -> None:
    if outcome.error:
        _print_error(outcome)
    else:
        print(json.dumps(replace_non_finite(outcome.record), ensure_ascii=False, allow_nan=False))


def _print_error(outcome: Outcome) -> None:
    message = one_line(f"{outcome.model} on {outcome.data}: {outcome.error}")
    print(f"clip-eval: error: {message}", file=sys.stderr)


def label_images(arguments: argparse.Namespace) -> None:
    """Print the best labels of single images."""
    if arguments.out is not None:
        refuse_existing(arguments.out, overwrite=arguments.overwrite)
    given, _ = read_template_list(arguments.templates)
    source = ImageFiles(arguments.images)
    source.exif_orientation = arguments.exif_orientation
    classes, prompt_set = _labels(arguments)
    device = choose_device(arguments.device)
    loaded = load_for_evaluation(arguments.model, device=device)
    if isinstance(given, DatasetTemplates):
        named = () if prompt_set is None else (prompt_set.name,)
        given, _ = given.choose(named, classes.names)
    templates = given or loaded.templates or (prompt_set and prompt_set.templates)
    found = predict(
        make_encoder(loaded, device=device, batch_size=arguments.batch_size),
        source,
        classes.names,
        templates=templates or DEFAULT_TEMPLATES,
        top=arguments.top,
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
        images = count_noun(len(source), "image")
        first = [f"; {one.key}: {one.reason}, {one.detail}" for one in found.skipped[:1]]
        raise EvaluationError(f"none of the given images could be used ({images}){''.join(first)}")


def _labels(arguments: argparse.Namespace) -> tuple[ClassList, PromptSet | None]:
    if arguments.classnames is not None:
        return read_class_list(arguments.classnames)
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

"""An evaluation run: every model on every data set, each result written as soon as it is complete.

An earlier result that was made by the same weights, prompts and samples is kept. What fails is
recorded, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from clip_models.command_line import Launch

from clip_eval.data.samples import Source
from clip_eval.prompts.named_data import open_data, read_template_list
from clip_eval.prompts.prompt_sets import PromptSet
from clip_eval.results.files import prepare_output
from clip_eval.runs.config import EvaluationRun, Outcome, name_directories
from clip_eval.runs.data_run import DataRun
from clip_eval.runs.models import load_models


def run_evaluations(
    run: EvaluationRun, processes: Launch, report: Callable[[Outcome], None]
) -> list[Outcome]:
    """Evaluate every model of a run on every data set.

    Args:
        run: Models, data sets and settings.
        processes: Which process this is of those that share the work; only the first writes and
            reports.
        report: Called with each outcome as it comes.

    Raises:
        EvaluationError, DataError: The model or the data of a single evaluation cannot be used.
    """
    outcomes: list[Outcome] = []

    def record(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if processes.is_first:
            report(outcome)

    def open_one(description: str) -> tuple[Source, PromptSet | None]:
        return open_data(
            description, classnames=run.classnames, split=run.split, **run.data_options
        )

    if run.is_single:
        prepare_output(run.out)
    templates = read_template_list(run.templates)
    first = open_one(run.data[0]) if run.is_single else None  # fails before a model is loaded
    models = load_models(run, record)
    for description, directory in zip(run.data, name_directories(run.data), strict=True):
        try:
            opened = first or open_one(description)
        except Exception as error:
            if run.is_single:
                raise
            for model in models:
                place = run.out / model.directory / directory
                record(Outcome.failed(model.loaded.name, description, place, error))
            continue
        data_run = DataRun(run, processes, description, directory, *opened, templates)
        data_run.evaluate(models, record)
    return outcomes

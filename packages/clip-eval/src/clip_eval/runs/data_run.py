"""One data set of an evaluation run, with all models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from clip_models.command_line import Launch

from clip_eval.data.samples import Source
from clip_eval.data.templates import Templates
from clip_eval.encoding.batches import LoaderConfig, hash_source
from clip_eval.errors import EvaluationError
from clip_eval.evaluation.evaluate import evaluate_together
from clip_eval.plurals import count_noun
from clip_eval.prompts.dataset_files import DatasetTemplates
from clip_eval.prompts.named_data import choose_prompts, open_data
from clip_eval.prompts.prompt_sets import PromptSet
from clip_eval.report.write import write_result
from clip_eval.results.files import RESULT_FILE, prepare_output
from clip_eval.results.result import MULTILABEL_TASKS, Result, count_reasons
from clip_eval.results.stored import read_result
from clip_eval.runs.config import USER_ERRORS, EvaluationRun, Outcome
from clip_eval.runs.models import RunModel
from clip_eval.runs.settings import settings_key, software_versions
from clip_eval.tasks.config import ResolvedTask, resolve_task

Report = Callable[[Outcome], None]


@dataclass(frozen=True)
class _Pending:
    """A model that has to be evaluated: its task, and where the templates are from."""

    model: RunModel
    task: ResolvedTask
    templates_from: str


@dataclass(frozen=True)
class DataRun:
    """One data set and all models.

    Attributes:
        run: The run.
        processes: Which process this is of those that share the work.
        description: The data as the user named it.
        directory: Name of its directory among the results.
        source: The samples.
        prompt_set: The prompt set of a recognized data set.
        templates: The user's templates, and where they are from; (None, "") for none.
    """

    run: EvaluationRun
    processes: Launch
    description: str
    directory: str
    source: Source
    prompt_set: PromptSet | None
    templates: tuple[Templates | DatasetTemplates | None, str]

    def evaluate(self, models: Sequence[RunModel], report: Report) -> None:
        """Evaluate all models together; if that fails, each alone, so that the others go on."""
        pending: list[_Pending] = []
        for model in models:
            try:
                found = self._prepare(model)
            except Exception as error:
                self._fail(model, error, report)
                continue
            if isinstance(found, Outcome):
                report(found)
            else:
                pending.append(found)
        try:
            self._measure(pending, report)
        except Exception as error:
            if len(pending) == 1:
                self._fail(pending[0].model, error, report)
                return
            for one in pending:
                try:
                    self._measure([one], report)
                except Exception as own:
                    self._fail(one.model, own, report)

    def _result_directory(self, model: RunModel) -> Path:
        if self.run.is_single:
            return self.run.out
        return self.run.out / model.directory / self.directory

    def _fail(self, model: RunModel, error: Exception, report: Report) -> None:
        if self.run.is_single:
            raise error
        name, place = model.loaded.name, self._result_directory(model)
        report(Outcome.failed(name, self.source.name, place, error))

    def _prepare(self, model: RunModel) -> _Pending | Outcome:
        """Settle the task of a model, or find the earlier result of the same evaluation."""
        templates, origin = choose_prompts(
            *(self.source, self.prompt_set), given=self.templates, saved=model.loaded.templates
        )
        config = replace(self.run.task, templates=templates, classnames=self.source.classnames)
        task = resolve_task(config, self.source, train=self.train, warnings=model.loaded.warnings)
        kept = self._find_kept(model, task)
        if kept is not None:
            return kept
        prepare_output(self._result_directory(model))  # on every rank, so that all go on or none
        return _Pending(model, task, origin)

    def _find_kept(self, model: RunModel, task: ResolvedTask) -> Outcome | None:
        """Return the outcome of an earlier result of the same evaluation, if there is one.

        Raises:
            EvaluationError: The result that is there was made with other settings.
        """
        directory = self._result_directory(model)
        path = directory / RESULT_FILE
        if self.run.overwrite or not path.exists():
            return None
        record = read_result(path)
        if record.get("n") == 0:  # no result, only the record that there was none
            return None
        key = settings_key(model.encoder, task, self.content, self.train_content)
        has_cost = bool(record.get("cost")) or not self.run.cost
        if not has_cost or (record.get("settings") or {}).get("key") != key:
            raise EvaluationError(
                f"{path} exists already and was made otherwise; choose another --out, or "
                "--overwrite to replace it"
            )
        return Outcome(
            model=model.loaded.name,
            data=self.source.name,
            directory=directory,
            record=record,
            kept=True,
        )

    @cached_property
    def content(self) -> str:
        """Hash of the samples, computed once for all models."""
        return hash_source(self.source)

    @cached_property
    def train(self) -> Source | None:
        """Training data of probes and neighbours: one source for all models, read once."""
        run = self.run
        if run.train is None and run.train_split is None:
            return None
        description = run.train or self.description
        options = {"classnames": run.classnames, "split": run.train_split, **run.data_options}
        return open_data(description, default_split="train", **options)[0]

    @cached_property
    def train_content(self) -> str:
        """Hash of the training samples; empty without any."""
        return "" if self.train is None else hash_source(self.train)

    def _measure(self, pending: Sequence[_Pending], report: Report) -> None:
        if not pending:
            return
        loader = replace(
            self.run.loader,
            workers=self.run.loader.workers_for(len(self.source)),
            rank=self.processes.rank,
            world_size=self.processes.world_size,
        )
        encoders = [one.model.encoder for one in pending]
        results = evaluate_together(encoders, self.source, [one.task for one in pending], loader)
        for one, result in zip(pending, results, strict=True):
            if defect := find_defect(result):
                self._fail(one.model, EvaluationError(defect), report)
                continue
            settings = self._recorded_settings(one, result, loader)
            complete = replace(result, settings=settings, cost=one.model.cost)
            try:
                self._write(one.model, complete)
            except USER_ERRORS as error:  # a full disk; the others have been measured too
                self._fail(one.model, error, report)
                continue
            report(
                Outcome(
                    model=complete.model,
                    data=complete.dataset,
                    directory=self._result_directory(one.model),
                    result=complete,
                    record=complete.to_dict(),
                )
            )

    def _recorded_settings(
        self, one: _Pending, result: Result, loader: LoaderConfig
    ) -> dict[str, object]:
        run, encoder = self.run, one.model.encoder
        return {
            "model_path": one.model.description,
            "model_fingerprint": encoder.fingerprint,
            "data": self.description,
            "split": self.source.split if self.source.splits else run.split,
            "data_options": dict(run.data_options),
            "classnames_from": run.classnames,
            "templates_from": one.templates_from if result.templates else None,
            "batch_size": loader.batch_size,
            "workers": loader.workers,
            "processes": loader.world_size,
            "device": run.device,
            "precision": run.precision,
            "key": settings_key(encoder, one.task, result.content, self.train_content),
            **software_versions(),
        }

    def _write(self, model: RunModel, result: Result) -> None:
        if self.processes.is_first:
            write_result(
                self._result_directory(model),
                result,
                self.source,
                run_directory=model.loaded.path,
                samples=self.run.samples,
                seed=self.run.seed,
            )


def find_defect(result: Result) -> str:
    """Say why a result has no meaning; empty if it has one."""
    if not result.n:
        samples = count_noun(result.n_skipped, "sample")
        why = f": skipped {samples} ({count_reasons(result.skipped)})" if result.skipped else ""
        first = f", such as {result.skipped[0].key}" if result.skipped else ""
        return f"{result.dataset}: no sample could be used{why}{first}"
    marked = [score.n for score in result.per_class]
    if result.task in MULTILABEL_TASKS and min(marked) == result.n:
        return (
            f"{result.dataset}: every image is marked with each of "
            f"{count_noun(len(marked), 'class', 'classes')}, so that mean average precision is "
            "100 % for any model; check how the data marks the classes of an image"
        )
    return ""

"""Several models on several data sets: each model loaded once, each result written at once.

A result that is there already and was made by the same weights, prompts and samples is kept.  What
fails is recorded, and the rest goes on.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.samples import Source
from clip_eval.data.templates import DEFAULT_TEMPLATES, Templates
from clip_eval.encoding.batches import source_content
from clip_eval.encoding.costs import measure_cost
from clip_eval.encoding.embed import Reading
from clip_eval.encoding.encoder import Encoder, Precision
from clip_eval.errors import EvaluationError
from clip_eval.evaluation import evaluate_together
from clip_eval.models.directory import LoadedModel, load_for_evaluation
from clip_eval.models.fingerprints import fingerprint, tokenizer_fingerprint
from clip_eval.processes import Processes
from clip_eval.prompts.named_data import given_templates, open_data
from clip_eval.prompts.prompt_sets import PromptSet
from clip_eval.results.output_files import RESULT_FILE, prepare_output, write_result
from clip_eval.results.result import Result
from clip_eval.results.stored import read_result
from clip_eval.tasks import TaskName
from clip_eval.tasks.questions import Question, check_question

SMALL_DATA = 2000
USER_ERRORS = (DataError, EvaluationError, BadSample, OSError)


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What to measure, and where to write it.

    Attributes:
        models: Descriptions of models, as `load_for_evaluation` takes them.
        data: Descriptions of data sets, as `open_source` takes them.
        out: Directory for the results.
        task: What to measure.
        templates: A file of templates or prompts, or the name of a usual set.
        classnames: A file of class names, or the name of a usual set.
        split: Which split, where the data has several.
        train: Data that probes and neighbours learn from.
        train_split: Or the split of the same data.
        question: Settings of the tasks.
        batch_size: Images per forward.
        workers: Processes that decode; None decides by the size of the data.
        device: Where forwards run.
        precision: Of the forwards.
        cache: Where embeddings are remembered; None does not.
        cost: Whether to measure parameters, operations and latency too.
        samples: Images in a report.
        seed: Which images those are.
        force: Replace results that were made otherwise.
        progress: Show progress bars.
    """

    models: tuple[str, ...]
    data: tuple[str, ...]
    out: Path
    task: TaskName = "auto"
    templates: str | None = None
    classnames: str | None = None
    split: str | None = None
    train: str | None = None
    train_split: str | None = None
    question: Question = field(default_factory=Question)
    batch_size: int = 256
    workers: int | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    cache: Path | None = None
    cost: bool = False
    samples: int = 24
    seed: int = 0
    force: bool = False
    progress: bool = True

    @property
    def single(self) -> bool:
        """Whether there is one result, which lies in ``out`` itself."""
        return len(self.models) == len(self.data) == 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one model on one data set.

    Attributes:
        model: Its name, or its description if it could not be loaded.
        data: The name of the data, or its description.
        directory: Where the result is.
        result: The result; None if it was kept or failed.
        record: The result as it is on disk; None if it failed.
        kept: Whether it was there already.
        error: Why it failed.
    """

    model: str
    data: str
    directory: Path
    result: Result | None = None
    record: dict[str, Any] | None = None
    kept: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class _Subject:
    spec: str
    loaded: LoadedModel
    encoder: Encoder
    directory: str
    cost: dict[str, Any] | None


def run_campaign(
    campaign: Campaign, processes: Processes, report: Callable[[Outcome], None]
) -> list[Outcome]:
    """Measure every model on every data set.

    Args:
        campaign: What to measure.
        processes: Those that share the work; only the first writes and reports.
        report: Called with each outcome as it comes.

    Raises:
        EvaluationError, DataError: The one model or the one data set asked for cannot be used.
    """
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if processes.first:
            report(outcome)

    if campaign.single:
        prepare_output(campaign.out)
    templates, origin = given_templates(campaign.templates)
    first = _open_for(campaign, campaign.data[0]) if campaign.single else None
    subjects = _load(campaign, done)
    for spec, directory in zip(campaign.data, _slugs(campaign.data), strict=True):
        try:
            source, usual = first or _open_for(campaign, spec)
        except Exception as error:
            if campaign.single:
                raise
            for subject in subjects:
                place, name = campaign.out / subject.directory / directory, subject.loaded.name
                done(Outcome(model=name, data=spec, directory=place, error=_in_words(error)))
            continue
        work = _Work(campaign, processes, spec, directory, source, usual, templates, origin)
        work.run(subjects, done)
    return outcomes


def _load(campaign: Campaign, done: Callable[[Outcome], None]) -> list[_Subject]:
    subjects = []
    for spec, directory in zip(campaign.models, _slugs(campaign.models), strict=True):
        try:
            loaded = load_for_evaluation(spec, device=campaign.device)
            encoder = Encoder(
                loaded.model,
                loaded.tokenizer,
                loaded.preprocess,
                name=loaded.name,
                device=campaign.device,
                precision=campaign.precision,
                batch_size=campaign.batch_size,
                cache=campaign.cache,
                factory=loaded.factory,
            )
            cost = measure_cost(encoder) if campaign.cost else None
        except Exception as error:
            if campaign.single:
                raise
            for data in campaign.data:
                place = campaign.out / directory
                done(Outcome(model=spec, data=data, directory=place, error=_in_words(error)))
            continue
        subjects.append(
            _Subject(spec=spec, loaded=loaded, encoder=encoder, directory=directory, cost=cost)
        )
    return subjects


@dataclass(frozen=True)
class _Work:
    """One data set and all models."""

    campaign: Campaign
    processes: Processes
    spec: str
    directory: str
    source: Source
    usual: PromptSet | None
    templates: Templates | None
    origin: str

    def run(self, subjects: Sequence[_Subject], done: Callable[[Outcome], None]) -> None:
        """Measure all together; if that fails, each alone, so that one cannot stop the others."""
        waiting: list[tuple[_Subject, Question, str]] = []
        for subject in subjects:
            try:
                found = self._prepare(subject)
            except Exception as error:
                self._failed(subject, error, done)
                continue
            if isinstance(found, Outcome):
                done(found)
            else:
                waiting.append((subject, *found))
        try:
            self._measure(waiting, done)
        except Exception as error:
            if len(waiting) == 1:
                self._failed(waiting[0][0], error, done)
                return
            for one in waiting:
                try:
                    self._measure([one], done)
                except Exception as own:
                    self._failed(one[0], own, done)

    def _place(self, subject: _Subject) -> Path:
        if self.campaign.single:
            return self.campaign.out
        return self.campaign.out / subject.directory / self.directory

    def _failed(self, subject: _Subject, error: Exception, done: Callable[[Outcome], None]) -> None:
        if self.campaign.single:
            raise error
        name, place = subject.loaded.name, self._place(subject)
        done(Outcome(model=name, data=self.source.name, directory=place, error=_in_words(error)))

    def _prepare(self, subject: _Subject) -> tuple[Question, str] | Outcome:
        """What to ask and where the templates are from, or the result that is there already."""
        templates, origin = self._templates(subject.loaded)
        question = replace(
            self.campaign.question,
            task=self.campaign.task,
            templates=templates,
            classnames=self.source.classnames,
            train=self.train,
            warnings=subject.loaded.warnings,
        )
        question = check_question(question, self.source)
        place = self._place(subject)
        if (place / RESULT_FILE).exists() and not self.campaign.force:
            record = read_result(place / RESULT_FILE)
            key = self._key(subject, question, self.content)
            measured = bool(record.get("cost")) or not self.campaign.cost
            if measured and (record.get("settings") or {}).get("key") == key:
                name = subject.loaded.name
                return Outcome(
                    model=name,
                    data=self.source.name,
                    directory=place,
                    record=record,
                    kept=True,
                )
            raise EvaluationError(
                f"{place / RESULT_FILE} exists already and was made otherwise; choose another "
                "--out, or --force to replace it"
            )
        prepare_output(place)  # by every process, so that all of them go on or none
        return question, origin

    def _templates(self, loaded: LoadedModel) -> tuple[Templates | None, str]:
        """The templates to use (None: the default, with its warning), and where they are from."""
        if self.templates is not None:
            return self.templates, self.origin
        if loaded.templates is not None:
            return loaded.templates, "saved with the model"
        if self.source.templates is not None:
            return self.source.templates, "beside the data"
        if self.usual is not None and self.usual.templates is not None:
            return self.usual.templates, f"usual for {self.usual.name}"
        return None, f"default {DEFAULT_TEMPLATES[0]!r}"

    @cached_property
    def content(self) -> str:
        """Hash of the samples, read once for all models."""
        return source_content(self.source)

    @cached_property
    def train(self) -> Source | None:
        """What probes and neighbours learn from: one source, so that it is read once."""
        campaign = self.campaign
        if campaign.train is None and campaign.train_split is None:
            return None
        spec = campaign.train or self.spec
        return open_data(spec, classnames=campaign.classnames, split=campaign.train_split)[0]

    @cached_property
    def train_content(self) -> str:
        """Hash of the training samples; empty without any."""
        return "" if self.train is None else source_content(self.train)

    def _key(self, subject: _Subject, question: Question, content: str) -> str:
        """Hash of all that decides the numbers."""
        encoder = subject.encoder
        settings = {
            name: value
            for name, value in vars(question).items()
            if name not in ("train", "warnings", "classnames")
        }
        return fingerprint(
            encoder.fingerprint,
            tokenizer_fingerprint(encoder.tokenizer),
            encoder.preprocess_key,
            encoder.precision,
            encoder.device.type,
            settings,
            content,
            self.train_content,
        )

    def _measure(
        self,
        waiting: Sequence[tuple[_Subject, Question, str]],
        done: Callable[[Outcome], None],
    ) -> None:
        if not waiting:
            return
        campaign, processes = self.campaign, self.processes
        workers = _workers(campaign.workers, len(self.source))
        reading = Reading(
            batch_size=campaign.batch_size,
            workers=workers,
            rank=processes.rank,
            world=processes.world,
            progress=campaign.progress,
        )
        encoders = [subject.encoder for subject, _, _ in waiting]
        questions = [question for _, question, _ in waiting]
        results = evaluate_together(encoders, self.source, questions, reading)
        for (subject, question, origin), result in zip(waiting, results, strict=True):
            settings = {
                "model_path": subject.spec,
                "model_fingerprint": subject.encoder.fingerprint,
                "data": self.spec,
                "split": campaign.split,
                "classnames_from": campaign.classnames,
                "templates_from": origin if result.templates else None,
                "batch_size": campaign.batch_size,
                "workers": workers,
                "processes": processes.world,
                "device": campaign.device,
                "precision": campaign.precision,
                "key": self._key(subject, question, result.content),
                **_versions(),
            }
            result = replace(result, settings=settings, cost=subject.cost)
            place = self._place(subject)
            try:
                if processes.first:
                    write_result(
                        place,
                        result,
                        self.source,
                        run_directory=subject.loaded.path,
                        samples=campaign.samples,
                        seed=campaign.seed,
                    )
            except USER_ERRORS as error:  # a full disk; the others have been measured too
                self._failed(subject, error, done)
                continue
            done(
                Outcome(
                    model=result.model,
                    data=result.dataset,
                    directory=place,
                    result=result,
                    record=result.to_dict(),
                )
            )


def _in_words(error: Exception) -> str:
    """The message; with its kind where it is not one of those meant for users."""
    return str(error) if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: {error}"


def _open_for(campaign: Campaign, spec: str) -> tuple[Source, PromptSet | None]:
    return open_data(spec, classnames=campaign.classnames, split=campaign.split)


def _slugs(specs: Sequence[str]) -> list[str]:
    """A distinct directory name for each description."""
    found: list[str] = []
    for spec in specs:
        parts = [part for part in re.split(r"[/\\]", spec) if part not in ("", ".", "..")]
        name = re.sub(r"[^\w.@+-]+", "-", "-".join(parts[-2:])).strip("-.") or "data"
        number = 2
        while name in found:
            name = f"{name.rsplit('~', 1)[0]}~{number}"
            number += 1
        found.append(name)
    return found


def _workers(asked: int | None, n: int) -> int:
    if asked is not None:
        return asked
    return 0 if n < SMALL_DATA else min(4, os.cpu_count() or 1)


def _versions() -> dict[str, str]:
    packages = ("clip-eval", "clip-models", "clip-tokenizer", "torch", "torchvision", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}

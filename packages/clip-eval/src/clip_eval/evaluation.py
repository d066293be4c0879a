"""From models and a source to results: who reads what, once, and what every result carries."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from clip_eval.data.samples import Source
from clip_eval.data.templates import Templates
from clip_eval.encoding.batches import content_hash
from clip_eval.encoding.embed import Reading, by_preprocessing, embed_images
from clip_eval.encoding.encoder import Encoder, Precision
from clip_eval.errors import EvaluationError
from clip_eval.models.classifier import ImagePreprocess, ImageTextModel, TextTokenizer
from clip_eval.results.result import Result, Skipped
from clip_eval.tasks.classification import evaluation_mode
from clip_eval.tasks.features import CollectFeatures, stack
from clip_eval.tasks.questions import Question, check_question, make_task
from clip_eval.tasks.task import Task, TaskName

SAME_SAMPLES = "the training samples are the test samples, so the number says nothing"


def evaluate(
    model: ImageTextModel,
    source: Source,
    *,
    tokenizer: TextTokenizer,
    preprocess: ImagePreprocess,
    task: TaskName = "classify",
    templates: Templates | None = None,
    classnames: Sequence[str] | None = None,
    train: Source | None = None,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    workers: int = 0,
    indices: Sequence[int] | None = None,
    keep_predictions: bool = False,
    progress: bool = False,
    model_name: str = "",
    cache: str | Path | None = None,
    rank: int = 0,
    world: int = 1,
) -> Result:
    """What one model makes of one source, with counts, intervals and what was skipped.

    Leaves the model in the mode it was in (module by module) and the global random state
    untouched, so that it can be called in the middle of a training.

    Args:
        model: Two towers and a logit scale; on ``device``.
        source: Samples with labels (``classify``, ``linear-probe``, ``knn``), several labels each
            (``multilabel``) or captions (``retrieval``, ``select``).
        tokenizer: Texts → token ids.
        preprocess: RGB image → pixels, and their normalisation.
        task: What to measure; ``auto`` takes what the first usable sample has.
        templates: Caption templates with ``{c}``, or prompts by class name; those of the source
            if None, else ``a photo of a {c}.`` with a warning in the result.
        classnames: Names in label order, if not those of the source.
        train: What ``linear-probe`` and ``knn`` learn from.
        batch_size: Images, and prompts, per forward.
        device: Where the forward runs.
        precision: ``fp32``, or ``bf16``/``fp16`` for a forward under autocast.
        workers: Processes that decode.
        indices: Which samples of the source; all if None.
        keep_predictions: Keep every sample's guesses in the result.
        progress: Show a progress bar.
        model_name: Name for the result.
        cache: Directory to remember embeddings in, by content; None remembers nothing.
        rank: Which process this is, of those that share the work through the default process
            group of ``torch.distributed``; all of them get the whole result.
        world: How many there are.

    Raises:
        EvaluationError: The source has not what the task needs.
        DataError: Bad templates or class names.
    """
    encoder = Encoder(
        model,
        tokenizer,
        preprocess,
        name=model_name,
        device=device,
        precision=precision,
        batch_size=batch_size,
        cache=cache,
    )
    question = Question(task=task, templates=templates, classnames=classnames, train=train)
    reading = Reading(
        batch_size=batch_size, workers=workers, rank=rank, world=world, progress=progress
    )
    (result,) = evaluate_together([encoder], source, [question], reading, indices=indices)
    return result if keep_predictions else replace(result, predictions=None, records=None)


def evaluate_together(
    encoders: Sequence[Encoder],
    source: Source,
    questions: Sequence[Question],
    reading: Reading,
    *,
    indices: Sequence[int] | None = None,
) -> list[Result]:
    """One result per encoder; each image is decoded once per preprocessing, not per encoder.

    Args:
        encoders: The models.
        source: The samples.
        questions: What to ask each of them.
        reading: How the source is read.
        indices: Which samples; all if None.
    """
    questions = [check_question(question, source) for question in questions]
    results: dict[int, Result] = {}
    for group in by_preprocessing(encoders):
        members, asked = [encoders[i] for i in group], [questions[i] for i in group]
        results |= zip(
            group, _evaluate_group(members, source, asked, reading, indices), strict=True
        )
    return [results[position] for position in range(len(encoders))]


def _evaluate_group(
    encoders: Sequence[Encoder],
    source: Source,
    questions: Sequence[Question],
    reading: Reading,
    indices: Sequence[int] | None,
) -> Iterator[Result]:
    started = time.perf_counter()
    tasks, learned_from = _tasks(encoders, questions, reading)
    found = _gather(encoders, tasks, source, reading, indices)
    seconds = time.perf_counter() - started
    for position, (encoder, task, question) in enumerate(
        zip(encoders, tasks, questions, strict=True)
    ):
        result = task.result(found.rows[position])
        leaked = (SAME_SAMPLES,) if learned_from.get(position) == found.content else ()
        yield replace(
            result,
            dataset=source.name,
            model=encoder.name,
            n_skipped=len(found.skipped),
            skipped=found.skipped,
            templates=question.shown_templates(),
            faults=tuple(map(str, source.faults)),
            warnings=(*source.warnings, *question.warnings, *leaked, *result.warnings),
            details={**question.details(), **result.details},
            content=found.content,
            seconds=seconds,
        )


def _tasks(
    encoders: Sequence[Encoder], questions: Sequence[Question], reading: Reading
) -> tuple[list[Task], dict[int, str]]:
    """The task of each encoder, its classifier built or learned, and the content learned from."""
    learned: dict[int, Any] = {}
    contents: dict[int, str] = {}
    for train in {id(q.train): q.train for q in questions if q.learns}.values():
        assert train is not None
        users = [i for i, q in enumerate(questions) if q.learns and q.train is train]
        collectors = [CollectFeatures(len(questions[i].names)) for i in users]
        found = _gather([encoders[i] for i in users], collectors, train, reading, None)
        learned |= {i: stack(rows) for i, rows in zip(users, found.rows, strict=True)}
        contents |= dict.fromkeys(users, found.content)
    tasks = []
    for position, (encoder, question) in enumerate(zip(encoders, questions, strict=True)):
        with evaluation_mode(encoder.model):
            tasks.append(make_task(encoder, question, learned.get(position)))
            encoder.flush()
    return tasks, contents


@dataclass(frozen=True)
class _Found:
    """What all processes made of a source, in its order."""

    rows: list[list[Any]]
    skipped: tuple[Skipped, ...]
    content: str


def _gather(
    encoders: Sequence[Encoder],
    tasks: Sequence[Task],
    source: Source,
    reading: Reading,
    indices: Sequence[int] | None,
) -> _Found:
    parts: list[tuple[int, list[list[Any]], tuple[Skipped, ...], tuple[bytes, ...]]] = []
    failure: Exception | None = None
    try:
        for batch, features in embed_images(encoders, source, reading, indices=indices):
            rows = [task.rows(batch, own) for task, own in zip(tasks, features, strict=True)]
            parts.append((batch.number, rows, batch.skipped, batch.contents))
    except Exception as error:
        if reading.world == 1:
            raise
        failure = error
    if reading.world > 1:
        parts = sorted(_from_all(parts, failure, reading.world), key=lambda part: part[0])
    return _Found(
        rows=[[row for part in parts for row in part[1][n]] for n in range(len(tasks))],
        skipped=tuple(skipped for part in parts for skipped in part[2]),
        content=content_hash((c for part in parts for c in part[3]), source.classnames),
    )


def _from_all(parts: list[Any], failure: Exception | None, world: int) -> list[Any]:
    """The parts of all processes; a failure of one is raised in all, so that none waits."""
    everyone: list[Any] = [None] * world
    mine = f"{type(failure).__name__}: {failure}" if failure else parts
    torch.distributed.all_gather_object(everyone, mine)
    for number, own in enumerate(everyone):
        if isinstance(own, str):
            raise EvaluationError(f"process {number}: {own}") from failure
    return [part for own in everyone for part in own]

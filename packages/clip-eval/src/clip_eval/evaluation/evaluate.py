"""Evaluation of models on a source: tasks, gathering over ranks, and what every result carries."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed
from torch import nn

from clip_eval.data.samples import Source
from clip_eval.data.templates import ClassPrompts
from clip_eval.encoding.batches import LoaderConfig, hash_contents
from clip_eval.encoding.embed import embed_images, group_by_preprocessing
from clip_eval.encoding.encoder import Encoder, make_encoder
from clip_eval.errors import EvaluationError
from clip_eval.evaluation.config import EvaluationConfig
from clip_eval.models.foreign_models import adapt_model
from clip_eval.models.protocols import (
    ImageTextModel,
    LoadedModel,
    evaluation_mode,
)
from clip_eval.plurals import count_noun
from clip_eval.prompts.named_data import choose_prompts, recognize_source
from clip_eval.results.result import Result, Skipped, count_reasons
from clip_eval.tasks.build import make_task
from clip_eval.tasks.config import PROMPTED, ResolvedTask, resolve_task
from clip_eval.tasks.features import CollectFeatures
from clip_eval.tasks.multilabel_probe import CollectMarks
from clip_eval.tasks.task import RowMaker, Task

SAME_SAMPLES = "the training samples are the test samples, so the result is meaningless"
DEFAULTS = EvaluationConfig()


def evaluate(
    model: ImageTextModel | LoadedModel | nn.Module,
    source: Source,
    *,
    tokenizer: Any = None,
    preprocess: Any = None,
    config: EvaluationConfig = DEFAULTS,
    train: Source | None = None,
    indices: Sequence[int] | None = None,
    model_name: str = "",
) -> Result:
    """Evaluate a model on a source; the result has counts, intervals and what was skipped.

    Leaves the model in the mode it was in (module by module) and the global random state
    untouched, so that it can be called in the middle of training.

    A standard data set is recognized as by `clip-eval run`: without `config.classnames`, folders of
    WordNet ids get ImageNet's class names, and without `config.templates` the templates are those
    saved with a `LoadedModel`, or of the source, or else of its prompt set.

    Args:
        model: Two towers and a logit scale, on `config.device`: an `ImageTextModel`, a model of
            open_clip or transformers; or a `LoadedModel`, which has the other two parts.
        source: Samples with labels (`classify`, `linear-probe`, `knn`), several labels each
            (`multilabel`) or captions (`retrieval`, `select`).
        tokenizer: Texts to token ids; any that `adapt_model` takes.
        preprocess: RGB image to pixels; any that `adapt_model` takes.
        config: The task, its settings, and how the source is read.
        train: Training data of `linear-probe` and `knn`.
        indices: Which samples of the source; all if None.
        model_name: Name of the model in the result.

    Returns:
        The result, the same on every rank.

    Raises:
        EvaluationError: The source lacks what the task needs, or a part of the model does.
        DataError: Bad templates or class names.
    """
    loaded = _complete(model, tokenizer, preprocess)
    encoder = make_encoder(
        replace(loaded, name=model_name or loaded.name),
        device=config.device,
        precision=config.precision,
        batch_size=config.batch_size,
        cache=None if config.cache is None else Path(config.cache),
        views=config.views,
    )
    prompt_set = None
    if config.classnames is None:
        source, prompt_set = recognize_source(source)
        train = None if train is None else recognize_source(train)[0]
    if config.templates is None:
        config = replace(
            config, templates=choose_prompts(source, prompt_set, saved=loaded.templates)[0]
        )
    task = resolve_task(config, source, train=train, warnings=loaded.warnings)
    (result,) = evaluate_together([encoder], source, [task], config, indices=indices)
    if not config.keep_predictions:
        result = replace(result, predictions=None, records=None)
    return result if config.keep_embeddings else replace(result, embeddings=None)


def _complete(model: Any, tokenizer: Any, preprocess: Any) -> LoadedModel:
    """Return the parts of a model in the form that an encoder takes, the modes of modules kept."""
    if isinstance(model, LoadedModel):
        return replace(
            model,
            tokenizer=model.tokenizer if tokenizer is None else tokenizer,
            preprocess=model.preprocess if preprocess is None else preprocess,
        )
    if tokenizer is None or preprocess is None:
        raise EvaluationError(
            "evaluate needs tokenizer= and preprocess= beside a model, or a LoadedModel, which "
            "load_for_evaluation and adapt_model return"
        )
    with evaluation_mode(model):
        return adapt_model(model, tokenizer, preprocess)


def evaluate_together(
    encoders: Sequence[Encoder],
    source: Source,
    tasks: Sequence[ResolvedTask],
    loader: LoaderConfig,
    *,
    indices: Sequence[int] | None = None,
) -> list[Result]:
    """Evaluate several models on one source: one result per encoder.

    Each image is decoded once per preprocessing, not per encoder.

    Args:
        encoders: The models.
        source: The samples.
        tasks: The task of each encoder.
        loader: How the source is read.
        indices: Which samples; all if None.
    """
    results: dict[int, Result] = {}
    for group in group_by_preprocessing(encoders):
        members, wanted = [encoders[i] for i in group], [tasks[i] for i in group]
        results |= zip(
            group, _evaluate_group(members, source, wanted, loader, indices), strict=True
        )
    return [results[position] for position in range(len(encoders))]


def _evaluate_group(
    encoders: Sequence[Encoder],
    source: Source,
    resolved: Sequence[ResolvedTask],
    loader: LoaderConfig,
    indices: Sequence[int] | None,
) -> Iterator[Result]:
    started = time.perf_counter()
    tasks, trained = _make_tasks(encoders, resolved, loader)
    found = _gather(encoders, tasks, source, loader, indices)
    seconds = time.perf_counter() - started
    for position, (encoder, task, own) in enumerate(zip(encoders, tasks, resolved, strict=True)):
        result = task.result(found.rows[position])
        train = trained.get(position)
        counts = {} if train is None else train.counts()
        notes = [*source.warnings, *own.warnings]
        if train is not None:
            assert own.train is not None
            notes += _describe_training(own.train, train)
            notes += [SAME_SAMPLES] * (train.content == found.content)
        notes += [*_describe_prompts(encoder, own), *result.warnings]
        yield replace(
            result,
            dataset=source.name,
            model=encoder.name,
            n_skipped=len(found.skipped),
            skipped=found.skipped,
            templates=own.shown_templates(),
            faults=tuple(map(str, source.faults)),
            warnings=tuple(dict.fromkeys(notes)),
            details={
                **({"exif_orientation": True} if source.exif_orientation else {}),
                **({"views": encoder.views} if encoder.views != "single" else {}),
                **own.details(),
                **counts,
                **result.details,
            },
            content=found.content,
            seconds=seconds,
        )


def _describe_training(source: Source, train: _Found) -> Iterator[str]:
    """Yield what the reader of a probe's result should know about its training data."""
    yield from (f"training data: {warning}" for warning in source.warnings)
    yield from (f"damaged training data: {fault}" for fault in source.faults)
    if train.skipped:
        reasons = count_reasons(train.skipped)
        yield (
            f"{len(train.skipped):,} of {count_noun(len(source), 'training image')} could not be "
            f"used ({reasons}), such as {train.skipped[0].key}"
        )


def _describe_prompts(encoder: Encoder, task: ResolvedTask) -> tuple[str, ...]:
    """Say how many prompts the context of the model cuts."""
    if task.config.task not in PROMPTED or task.config.templates is None:
        return ()
    prompts = ClassPrompts(task.names, task.config.templates)
    return encoder.describe_cut((text for texts in prompts for text in texts), "prompt")


def _make_tasks(
    encoders: Sequence[Encoder], resolved: Sequence[ResolvedTask], loader: LoaderConfig
) -> tuple[list[Task], dict[int, _Found]]:
    """Make the task of each encoder; return what was found of each one's training data too."""
    learned: dict[int, Any] = {}
    trained: dict[int, _Found] = {}
    for train in {id(task.train): task.train for task in resolved if task.is_trained}.values():
        assert train is not None
        users = [i for i, task in enumerate(resolved) if task.is_trained and task.train is train]
        collectors = [
            (CollectMarks if resolved[i].has_marks else CollectFeatures)(len(resolved[i].names))
            for i in users
        ]
        found = _gather([encoders[i] for i in users], collectors, train, loader, None)
        learned |= {
            i: collector.stack(rows)
            for i, collector, rows in zip(users, collectors, found.rows, strict=True)
        }
        trained |= dict.fromkeys(users, found)
    tasks = []
    for position, (encoder, task) in enumerate(zip(encoders, resolved, strict=True)):
        with evaluation_mode(encoder.model):
            tasks.append(make_task(encoder, task, learned.get(position)))
            encoder.flush()
    return tasks, trained


@dataclass(frozen=True)
class _Found:
    """What all ranks made of a source, in its order."""

    rows: list[list[Any]]
    skipped: tuple[Skipped, ...]
    content: str

    def counts(self) -> dict[str, int]:
        """Return the numbers of used and of skipped samples, as a result of a probe shows them."""
        return {"n_train": len(self.rows[0]), "n_train_skipped": len(self.skipped)}


def _gather(
    encoders: Sequence[Encoder],
    tasks: Sequence[RowMaker],
    source: Source,
    loader: LoaderConfig,
    indices: Sequence[int] | None,
) -> _Found:
    parts: list[tuple[int, list[list[Any]], tuple[Skipped, ...], tuple[bytes, ...]]] = []
    failure: Exception | None = None
    try:
        with closing(embed_images(encoders, source, loader, indices=indices)) as embedded:
            for batch, features in embedded:
                rows = [task.rows(batch, own) for task, own in zip(tasks, features, strict=True)]
                parts.append((batch.number, rows, batch.skipped, batch.contents))
    except Exception as error:
        if loader.world_size == 1:
            raise
        failure = error
    if loader.world_size > 1:
        parts = sorted(_from_all(parts, failure, loader.world_size), key=lambda part: part[0])
    return _Found(
        rows=[[row for part in parts for row in part[1][n]] for n in range(len(tasks))],
        skipped=tuple(skipped for part in parts for skipped in part[2]),
        content=hash_contents((c for part in parts for c in part[3]), source.classnames),
    )


def _from_all(parts: list[Any], failure: Exception | None, world_size: int) -> list[Any]:
    """Gather the parts of all ranks; a failure of one is raised on all, so that none waits."""
    everyone: list[Any] = [None] * world_size
    mine = f"{type(failure).__name__}: {failure}" if failure else parts
    torch.distributed.all_gather_object(everyone, mine)
    for number, own in enumerate(everyone):
        if isinstance(own, str):
            raise EvaluationError(f"process {number}: {own}") from failure
    return [part for own in everyone for part in own]

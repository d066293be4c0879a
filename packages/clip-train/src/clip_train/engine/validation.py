"""Evaluation in the middle of training: every validation set, and which model is the best."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clip_eval import EvaluationConfig, Result, evaluate
from clip_models import CLIP

from clip_train.data.validation import LOSS, ValidationSet, WatchedMetric, is_zero_shot
from clip_train.distributed.protocol import Backend
from clip_train.engine.data_components import DataComponents
from clip_train.logs.files import replace_text
from clip_train.objectives.validation import validation_loss

BEST, RECORD = "best", "best.json"


class Evaluation(NamedTuple):
    """What was measured on one validation set."""

    result: Result
    metrics: dict[str, float | None]  # those of the result, and the loss of pairs
    is_zero_shot: bool = False

    def row(self, name: str) -> dict[str, Any]:
        """The row of metrics.jsonl."""
        result = self.result
        counts = {"n": result.n, "n_skipped": result.n_skipped, "chance": result.chance}
        told: dict[str, Any] = {"warnings": list(result.warnings)} if result.warnings else {}
        told |= {"zero_shot": True} if self.is_zero_shot else {}
        told |= {"views": result.details["views"]} if "views" in result.details else {}
        return {"data": name, "task": result.task, **self.metrics, **counts, **told}


def evaluate_set(
    model: CLIP, one: ValidationSet, data: DataComponents, backend: Backend
) -> Evaluation:
    """Evaluate the model on a validation set; the same on every rank, which all call it."""
    settings = EvaluationConfig(
        task=one.task,  # type: ignore[arg-type]  # one of its names
        templates=one.templates,
        classnames=one.source.classnames,
        batch_size=data.config.eval.batch_size,
        views=data.config.eval.views,
        workers=None if data.config.data.workers else 0,  # as for training: none, or by the size
        device=next(model.parameters()).device,
        rank=backend.rank,
        world_size=backend.world_size,
        keep_embeddings=one.task == "retrieval",
    )
    result = evaluate(
        model, one.source, tokenizer=data.tokenizer, preprocess=data.preprocess, config=settings
    )
    metrics = dict(result.metrics)
    if result.embeddings is not None:
        size = data.config.train.batch_size
        metrics[LOSS] = validation_loss(model, result.embeddings, data.config.loss, size)
    return Evaluation(result, metrics, is_zero_shot(one, data.source))


@dataclass
class BestModel:
    """Which evaluation was the best so far, and for how many there was no better one.

    Attributes:
        watched: The metric that decides.
        patience: Evaluations without a better value after which it is exhausted; None for never.
        step: Step of the best one; None before any.
        value: Its value.
        stale: Evaluations since.
        seen: Step of the last evaluation.
    """

    watched: WatchedMetric
    patience: int | None
    step: int | None = None
    value: float | None = None
    stale: int = 0
    seen: int = -1

    @property
    def is_exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.stale >= self.patience

    def update(self, step: int, value: float | None) -> bool:
        """Take one evaluation in; whether it is the best. A value of None says nothing."""
        self.seen = step
        if value is None:
            return False
        sign = -1 if self.watched.falls else 1
        known = -math.inf if self.value is None else sign * self.value
        if not sign * value > known:  # NaN is never better
            self.stale += 1
            return False
        self.step, self.value, self.stale = step, value, 0
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "metric": list(self.watched),
            "step": self.step,
            "value": self.value,
            "stale": self.stale,
            "seen": self.seen,
        }

    def load(self, state: dict[str, Any] | None) -> None:
        """Continue from the state of a checkpoint, unless another metric decided there."""
        if state is not None and state["metric"] == list(self.watched):
            names = ("step", "value", "stale", "seen")
            self.step, self.value, self.stale, self.seen = (state[name] for name in names)

    def catch_up(self, rows: list[dict[str, Any]], step: int) -> None:
        """Take in what came after the checkpoint of a step and before the next step.

        Args:
            rows: Of metrics.jsonl, up to that step: an evaluation counts, and where the run got
                another config patience began anew.
            step: The checkpoint's.
        """
        name, metric = self.watched
        for row in rows:
            if row["kind"] == "extension" and row["step"] == step:
                self.stale = 0
            is_watched = row["kind"] == "eval" and row.get("data") == name and metric in row
            if is_watched and self.seen < row["step"] <= step:
                self.update(row["step"], row[metric])


def best_step(run: Path) -> int | None:
    """The step of the model in `best` of a run; None if there is none."""
    try:
        found = json.loads((run / BEST / RECORD).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, int) else None


def write_best(run: Path, write: Callable[[Path], None], record: str) -> None:
    """Replace the model directory `best` of a run; an earlier one is there until the new one is.

    Args:
        run: The run directory.
        write: Writes the model into a directory.
        record: Content of its `best.json`.
    """
    target, partial, old = run / BEST, run / f".{BEST}.partial", run / f".{BEST}.old"
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    write(partial)
    replace_text(partial / RECORD, record)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)

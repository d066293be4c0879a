"""The result of an evaluation, and its strict JSON form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 2
BENCHMARK_TASK = {
    "zeroshot_multilabel": "zeroshot_classification",
    "linear_probe_multilabel": "linear_probe",
}
"""CLIP_benchmark's name of a task, where it differs from ours."""
MULTILABEL_TASKS = tuple(BENCHMARK_TASK)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A sample that could not be used.

    Attributes:
        key: Name of the sample.
        reason: A fixed word, by which skipped samples are counted.
        detail: Further information.
    """

    key: str
    reason: str
    detail: str


def count_reasons(skipped: Iterable[Skipped]) -> str:
    """Count skipped samples by their reasons, most frequent first: `3 empty, 1 truncated`."""
    counts = Counter(sample.reason for sample in skipped)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class: its samples, how many were right, and their share (None without samples)."""

    name: str
    n: int
    correct: int
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A frequent confusion: `n` images of class `label` were predicted as `predicted`."""

    label: str
    predicted: str
    n: int


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one sample.

    Attributes:
        index: Position in the source.
        key: Name in the source.
        label: True class.
        guesses: Up to five classes, best first; empty if the embedding was not finite, fewer
            where few neighbours voted.
        probabilities: Softmax over all classes at the model's logit scale, for the guesses.
    """

    index: int
    key: str
    label: int
    guesses: tuple[int, ...]
    probabilities: tuple[float, ...]

    @property
    def correct(self) -> bool:
        """Whether the first guess is the label."""
        return self.guesses[:1] == (self.label,)


class PairEmbeddings(NamedTuple):
    """Features of a retrieval's N distinct images and M distinct captions, D wide."""

    images: NDArray[np.float32]  # (N, D) unit vectors
    texts: NDArray[np.float32]  # (M, D) unit vectors
    pairs: NDArray[np.int64]  # (P, 2) image and caption of each distinct pair


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of an evaluation.

    Attributes:
        dataset: Name of the data.
        model: Name of the model.
        metrics: Metrics by name, None where one is undefined: `acc1`, `acc5` (None with fewer than
            five classes) and `mean_per_class_recall` for classification.
        n: Number of samples that the metrics are computed from.
        n_skipped: Number of samples that could not be used.
        skipped: Each of them, with its reason.
        ci95: 95 % interval of the metrics: Wilson's for shares, a bootstrap for average precision.
        chance: Value of the first metric for random guesses: k / number of classes for `acc<k>`.
        classnames: Class names in label order, where there are classes.
        templates: The caption templates used, or the prompts of each class.
        per_class: Scores in label order.
        confusions: The most frequent confusions.
        faults: Damage found while the data set was listed, one line each.
        warnings: What the reader of the numbers should know.
        seconds: Wall-clock time.
        predictions: One per sample of a classification, where kept; not part of the JSON.
        records: One per query of another task, where kept; not part of the JSON.
        embeddings: Features of a retrieval, where kept; not part of the JSON.
        details: Settings and values of the task, such as the penalty of a linear probe.
        content: Hash of the samples: images, labels, captions, order.
        language: Language of the prompts.
        cost: Parameters, operations and latency of the model, where measured.
        settings: How the result was made.
    """

    task: str = "zeroshot_classification"
    dataset: str = ""
    model: str = ""
    metrics: dict[str, float | None]
    n: int
    n_skipped: int = 0
    skipped: tuple[Skipped, ...] = ()
    ci95: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    chance: float | None = None
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] | dict[str, tuple[str, ...]] = ()
    per_class: tuple[ClassScore, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    predictions: tuple[Prediction, ...] | None = None
    records: tuple[dict[str, Any], ...] | None = None
    embeddings: PairEmbeddings | None = None
    details: dict[str, Any] = field(default_factory=dict)
    content: str = ""
    language: str = "en"
    cost: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def main_metric(self) -> str:
        """Name of the main metric, which is the first."""
        return next(iter(self.metrics), "")

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classnames)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON, without NaN: CLIP_benchmark's keys, then ours."""
        record = {
            "dataset": self.dataset,
            "model": self.model,
            "pretrained": self.settings.get("model_path", ""),
            "task": BENCHMARK_TASK.get(self.task, self.task),
            "task_name": self.task,
            "metrics": self.metrics,
            "language": self.language,
            "schema_version": SCHEMA_VERSION,
            "n": self.n,
            "n_skipped": self.n_skipped,
            "n_classes": self.n_classes,
            "chance": self.chance,
            "ci95": self.ci95,
            "per_class": [asdict(score) for score in self.per_class],
            "confusions": [asdict(confusion) for confusion in self.confusions],
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "faults": list(self.faults),
            "warnings": list(self.warnings),
            "classnames": list(self.classnames),
            "templates": self.templates,
            "details": self.details,
            "content": self.content,
            "seconds": self.seconds,
            "images_per_second": self.n / self.seconds if self.seconds else None,
            "cost": self.cost,
            "settings": self.settings,
        }
        return {key: replace_non_finite(value) for key, value in record.items()}

    def prediction_records(self) -> Iterator[dict[str, Any]]:
        """Yield a plain record per kept prediction, with class names beside the class numbers."""
        yield from self.records or ()
        for prediction in self.predictions or ():
            yield {
                "index": prediction.index,
                "key": prediction.key,
                "label": self.classnames[prediction.label],
                "label_id": prediction.label,
                "correct": prediction.correct,
                "guesses": [self.classnames[guess] for guess in prediction.guesses],
                "guess_ids": list(prediction.guesses),
                "probabilities": [round(p, 6) for p in prediction.probabilities],
            }


def replace_non_finite(value: Any) -> Any:
    """Replace values that are not finite by None: strict JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return value


def result_from_record(
    record: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]] = ()
) -> Result:
    """Rebuild a result from the record of `result.json` and its predictions.

    Args:
        record: A record of ours, or an imported one, which may lack keys.
        predictions: Records of `predictions.jsonl`, if there are some.
    """
    templates = record.get("templates") or ()
    intervals = {k: v and (v[0], v[1]) for k, v in (record.get("ci95") or {}).items()}
    guessed = [p for p in predictions if "guess_ids" in p]
    return Result(
        task=str(record.get("task_name") or record.get("task")),
        dataset=str(record.get("dataset", "")),
        model=str(record.get("model", "")),
        metrics=dict(record.get("metrics") or {}),
        n=record.get("n") or 0,
        n_skipped=record.get("n_skipped") or 0,
        skipped=tuple(Skipped(**row) for row in record.get("skipped") or ()),
        ci95=intervals,
        chance=record.get("chance"),
        classnames=tuple(record.get("classnames") or ()),
        templates=templates if isinstance(templates, dict) else tuple(templates),
        per_class=tuple(ClassScore(**row) for row in record.get("per_class") or ()),
        confusions=tuple(Confusion(**row) for row in record.get("confusions") or ()),
        faults=tuple(record.get("faults") or ()),
        warnings=tuple(record.get("warnings") or ()),
        seconds=record.get("seconds") or 0.0,
        details=dict(record.get("details") or {}),
        content=str(record.get("content", "")),
        language=str(record.get("language", "en")),
        cost=record.get("cost"),
        settings=dict(record.get("settings") or {}),
        records=tuple(dict(p) for p in predictions if "guess_ids" not in p) or None,
        predictions=tuple(map(_read_prediction, guessed)) or None,
    )


def _read_prediction(record: Mapping[str, Any]) -> Prediction:
    return Prediction(
        index=record["index"],
        key=record["key"],
        label=record["label_id"],
        guesses=tuple(record["guess_ids"]),
        probabilities=tuple(record["probabilities"]),
    )

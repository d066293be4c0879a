"""A result as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clip_eval.data.text_width import display_width, pad
from clip_eval.plurals import count_noun
from clip_eval.results.result import MULTILABEL_TASKS, ClassScore, Result, count_reasons

WORST_CLASSES = 5
METRIC_NAMES = {
    "acc1": "accuracy",
    "acc5": "top-5 accuracy",
    "mean_per_class_recall": "mean per-class recall",
    "lp_acc1": "linear-probe accuracy",
    "lp_acc5": "linear-probe top-5 accuracy",
    "lp_mean_per_class_recall": "mean per-class recall",
    "knn_acc1": "k-NN accuracy",
    "knn_acc5": "k-NN top-5 accuracy",
    "knn_mean_per_class_recall": "mean per-class recall",
    "mean_average_precision": "mAP",
    "mean_average_precision_all": "mAP, all classes",
    "lp_mean_average_precision": "linear-probe mAP",
    "lp_mean_average_precision_all": "linear-probe mAP, all classes",
    "average_precision": "average precision per image",
    "acc": "group score",
    "image_acc": "image score",
    "text_acc": "text score",
}


TASK_TITLES = {
    "zeroshot_classification": "classification by class prompts",
    "zeroshot_multilabel": "multi-label classification by class prompts",
    "zeroshot_retrieval": "retrieval",
    "linear_probe": "linear probe",
    "linear_probe_multilabel": "multi-label linear probe",
    "knn": "nearest neighbours",
    "image_caption_selection": "image-caption selection",
}
"""Tasks in words; not `zero-shot`, because what a model saw in training is not known here."""


def task_title(task: str) -> str:
    """Return a task in words."""
    return TASK_TITLES.get(task, task)


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share as a percentage; an en dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def worst_classes(result: Result, limit: int = WORST_CLASSES) -> list[ClassScore]:
    """Return the classes with the lowest accuracy, lowest first."""
    scored = [score for score in result.per_class if score.accuracy is not None]
    return sorted(scored, key=lambda score: score.accuracy or 0.0)[:limit]


def metric_name(key: str) -> str:
    """Return the name of a metric as people write it."""
    words = {"image_retrieval_recall@": "image recall @", "text_retrieval_recall@": "text recall @"}
    for start, word in words.items():
        if key.startswith(start):
            return f"{word}{key.removeprefix(start)}"
    return METRIC_NAMES.get(key, key)


def list_prompts(templates: Sequence[str] | Mapping[str, Sequence[str]]) -> list[str]:
    """List templates, or prompts by class with the name of each one's class."""
    if isinstance(templates, Mapping):
        return [f"{name}: {text}" for name, texts in templates.items() for text in texts]
    return list(templates)


def format_result(result: Result) -> str:
    """Format a result as lines: what was measured, the numbers, and warnings."""
    rows = [("model", result.model), ("data", result.dataset), ("task", task_title(result.task))]
    for position, (name, value) in enumerate(result.metrics.items()):
        interval = result.ci95.get(name)
        shown = percent(value)
        if interval and (position == 0 or not result.classnames):
            shown += f"   95 % interval {percent(interval[0])} to {percent(interval[1])}"
        rows.append((metric_name(name), shown))
        if position == 0 and result.chance is not None:
            classes = count_noun(result.n_classes, "class", "classes") if result.n_classes else ""
            classes = f"   {classes}" if classes else ""
            rows.append(("chance", f"{percent(result.chance)}{classes}"))
    rows += [
        ("images", f"{result.n:,} used, {result.n_skipped:,} skipped{_reasons(result)}"),
        ("templates", _shorten(list_prompts(result.templates))),
        ("time", _speed(result)),
    ]
    rows += describe_cost(result.cost).items()
    lines = _align([(name, value.rstrip()) for name, value in rows if value.strip()])
    lines += _worst(result)
    lines += [f"damaged: {fault}" for fault in result.faults]
    lines += [f"warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)


def format_count(value: object) -> str:
    """Format a whole number; an en dash for anything else."""
    return f"{value:,}" if isinstance(value, int) else "–"


def main_metric(record: Mapping[str, Any]) -> tuple[str, float | None]:
    """Return name and value of the main metric of a record, which is its first."""
    return next(iter((record.get("metrics") or {}).items()), ("", None))


def format_metric(record: Mapping[str, Any]) -> str:
    """Format the main metric of a record: `accuracy 63.2 %`."""
    name, value = main_metric(record)
    return f"{metric_name(name)} {percent(value)}"


def sort_key(record: Mapping[str, Any]) -> tuple[str, str, float]:
    """Return the key by which records are listed: by data and metric, best first."""
    name, value = main_metric(record)
    return str(record.get("dataset", "")), name, -(value or 0.0)


def _significant(value: float) -> str:
    """Format a number with three digits, or more where it is large."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def describe_cost(cost: Mapping[str, Any] | None) -> dict[str, str]:
    """Describe the cost of a model, by what it is counted in; empty where it was not measured."""
    found: dict[str, str] = {}
    if not cost:
        return found
    if cost.get("parameters"):
        found["million parameters"] = _significant(cost["parameters"] / 1e6)
    if cost.get("image_flops"):
        found["GFLOP per image"] = _significant(cost["image_flops"] / 1e9)
    if cost.get("image_latency"):
        found["ms per image"] = _significant(cost["image_latency"][0]["p50_ms"])
    return found


def _worst(result: Result) -> list[str]:
    scores = [s for s in worst_classes(result) if s.accuracy is not None and s.accuracy < 1]
    if not scores or result.n_classes < 2 or result.task in MULTILABEL_TASKS:
        return []
    rows = [(f"  {s.name}", f"{percent(s.accuracy):>7}  {s.correct} of {s.n}") for s in scores]
    return ["worst classes", *_align(rows)]


def _reasons(result: Result) -> str:
    words = count_reasons(result.skipped)
    return f" ({words})" if words else ""


def _shorten(templates: Sequence[str], limit: int = 3) -> str:
    shown = ", ".join(f"'{template}'" for template in templates[:limit])
    return f"{shown} and {len(templates) - limit} more" if len(templates) > limit else shown


def _speed(result: Result) -> str:
    if not result.seconds:
        return ""
    return f"{result.seconds:.1f} s, {result.n / result.seconds:,.0f} images/s"


def _align(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((display_width(name) for name, _ in rows), default=0)
    return [f"{pad(name, width)}  {value}" for name, value in rows]

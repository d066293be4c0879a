"""A result as one HTML page that carries its pictures and styles inside itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from clip_eval.data.samples import Source
from clip_eval.metrics.functions import calibration
from clip_eval.report.charts import reliability_chart
from clip_eval.report.confusions import ConfusionView, view_confusions
from clip_eval.report.query_pictures import QueryGroup, QueryPictures
from clip_eval.report.rendering import render_page
from clip_eval.report.sample_pictures import (
    Picture,
    choose_predictions,
    data_address,
    load_pictures,
    most_confident_errors,
)
from clip_eval.report.table import describe_cost, list_prompts, metric_name, percent, task_title
from clip_eval.results.result import ClassScore, Result, Skipped

CURVES_FILE = "curves.png"
MANY_CLASSES = 60
SHOWN_CLASSES = 30
SHOWN_SKIPPED = 50
SHOWN_PROMPTS = 20
LONG_NAME = 28
METHODS = {
    "zeroshot_classification": "Each class is the mean of its prompts' normalized embeddings; an "
    "image is assigned the class of highest cosine similarity. Probabilities are a softmax over "
    "the classes at the logit scale of the model.",
    "zeroshot_multilabel": "Images are ranked for each class by cosine similarity to the mean of "
    "its prompts' normalized embeddings; the metric is the mean of the classes' average precision.",
    "zeroshot_retrieval": "Captions look for their image and images for any of their captions, by "
    "cosine similarity; a hit is a right one among the first k. Ties count against the model.",
    "linear_probe": "A multinomial logistic regression on frozen, normalized image features of the "
    "training set, its penalty chosen on a held-out part of it.",
    "linear_probe_multilabel": "A logistic regression for each class on frozen, normalized image "
    "features of the training set, its penalty chosen on a held-out part of it; the metric is the "
    "mean of the classes' average precision.",
    "knn": "The nearest training images by cosine similarity vote, weighted by "
    "exp(similarity / 0.07).",
    "image_caption_selection": "A group counts for the text score if each of its images is "
    "nearer to its own caption than to the others, for the image score if each caption is nearer "
    "to its own image, and for the group score if both hold.",
}


class SampleGroup(NamedTuple):
    """Sample images with right, or with wrong predictions, and how many there are in all."""

    name: str
    pictures: Sequence[Picture]
    total: int


class Reliability(NamedTuple):
    """A reliability diagram and the expected calibration error."""

    chart: Markup
    error: float | None


@dataclass(frozen=True, kw_only=True)
class ResultView:
    """What a page shows of a result; sections without content are empty.

    Attributes:
        result: The result.
        seed: Seed of the choice of sample images.
        confident_errors: The wrong predictions of highest probability.
        samples: Sample images, wrong and right ones.
        queries: Queries of a retrieval with what they found, wrong and right ones.
        curves: Training curves of the run, a `data:` address.
        classes: Classes with their accuracy, lowest first.
        more_classes: The classes that are folded up.
        confusions: The confusions.
        reliability: The reliability diagram.
    """

    result: Result
    seed: int
    confident_errors: Sequence[Picture]
    samples: Sequence[SampleGroup]
    queries: Sequence[QueryGroup]
    curves: str
    classes: Sequence[ClassScore]
    more_classes: Sequence[ClassScore]
    confusions: ConfusionView | None
    reliability: Reliability | None

    @property
    def metric(self) -> str:
        """Name of the main metric."""
        return self.result.main_metric

    @property
    def value(self) -> float | None:
        """Value of the main metric."""
        return self.result.metrics.get(self.metric)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of the main metric."""
        return None if self.value is None else self.result.ci95.get(self.metric)

    @property
    def task_title(self) -> str:
        """The task, in words."""
        return task_title(self.result.task)

    @property
    def method(self) -> str:
        """How the task is measured."""
        return METHODS.get(self.result.task, "")

    @property
    def tiles(self) -> list[tuple[str, str]]:
        """Further numbers with their names."""
        result = self.result
        speed = f"{result.n / result.seconds:,.0f}" if result.seconds else "–"
        noun = "class" if result.n_classes == 1 else "classes"
        classes = [(f"{result.n_classes:,}", noun)] if result.n_classes else []
        return [
            (f"{result.n:,}", "image used" if result.n == 1 else "images used"),
            (f"{result.n_skipped:,}", "skipped"),
            *classes,
            (speed, "images/s"),
            *(
                (percent(value), metric_name(name))
                for name, value in result.metrics.items()
                if name != self.metric and value is not None
            ),
            *((value, name) for name, value in describe_cost(result.cost).items()),
        ]

    @property
    def notes(self) -> list[str]:
        """Damage to the data, and warnings."""
        lines = [f"Damaged data: {fault}" for fault in self.result.faults]
        return lines + [f"{text[:1].upper()}{text[1:]}" for text in self.result.warnings]

    @property
    def is_wide(self) -> bool:
        """Whether some class name is too long for a narrow card."""
        return max(map(len, self.result.classnames), default=0) > LONG_NAME

    @property
    def prompts(self) -> list[str]:
        """The first templates, or prompts."""
        return list_prompts(self.result.templates)[:SHOWN_PROMPTS]

    @property
    def more_prompts(self) -> int:
        """Number of those that are not shown."""
        return len(list_prompts(self.result.templates)) - SHOWN_PROMPTS

    @property
    def skipped(self) -> Sequence[Skipped]:
        """The first skipped samples."""
        return self.result.skipped[:SHOWN_SKIPPED]

    @property
    def more_skipped(self) -> int:
        """Number of those that are not shown."""
        return len(self.result.skipped) - SHOWN_SKIPPED


def render_report(
    result: Result,
    source: Source,
    *,
    run_directory: Path | None = None,
    samples: int = 24,
    seed: int = 0,
) -> str:
    """Render the page of a result.

    Args:
        result: With its predictions kept.
        source: Where the sample images are read from.
        run_directory: Its `curves.png` shows the training, where it exists.
        samples: Number of images.
        seed: Seed of their choice.
    """
    view = view_result(result, source, run_directory=run_directory, samples=samples, seed=seed)
    return render_page("result.html.j2", title=f"{result.model} on {result.dataset}", view=view)


def view_result(
    result: Result,
    source: Source | None,
    *,
    run_directory: Path | None = None,
    samples: int = 24,
    seed: int = 0,
) -> ResultView:
    """Prepare a result for a page; without a source there are no images."""
    errors: list[Picture] = []
    chosen: list[Picture] = []
    queries: list[QueryGroup] = []
    if source is not None:
        queries = QueryPictures(source).groups(result.records or (), samples, seed)
        predictions = result.predictions or ()
        errors = load_pictures(source, most_confident_errors(predictions, samples // 2))
        chosen = load_pictures(source, choose_predictions(predictions, samples, seed))
    scores = sorted(result.per_class, key=lambda s: (s.accuracy is None, s.accuracy or 0.0, s.name))
    shown = len(scores) if len(scores) <= MANY_CLASSES else SHOWN_CLASSES
    return ResultView(
        result=result,
        seed=seed,
        confident_errors=errors,
        samples=_sample_groups(result, chosen),
        queries=queries,
        curves=_find_curves(run_directory),
        classes=scores[:shown],
        more_classes=scores[shown:],
        confusions=view_confusions(result),
        reliability=_view_reliability(result),
    )


def _sample_groups(result: Result, pictures: Sequence[Picture]) -> list[SampleGroup]:
    if not result.classnames:
        return []
    n_right = sum(prediction.correct for prediction in result.predictions or ())
    groups = [
        SampleGroup("Wrong", [p for p in pictures if not p.prediction.correct], result.n - n_right),
        SampleGroup("Right", [p for p in pictures if p.prediction.correct], n_right),
    ]
    return [group for group in groups if group.pictures]


def _find_curves(run_directory: Path | None) -> str:
    """Read the run's own picture of its training; a checkpoint's run lies two folders above it."""
    if run_directory is None:
        return ""
    resolved = run_directory.resolve()
    places = [resolved, *(resolved.parents[1:2] if resolved.parent.name == "checkpoints" else ())]
    found = [place / CURVES_FILE for place in places if (place / CURVES_FILE).is_file()]
    return data_address("image/png", found[0].read_bytes()) if found else ""


def _view_reliability(result: Result) -> Reliability | None:
    guessed = [p for p in result.predictions or () if p.guesses]
    if not guessed or result.n_classes < 2:
        return None
    bins, error = calibration([p.probabilities[0] for p in guessed], [p.correct for p in guessed])
    return Reliability(reliability_chart(bins), error)

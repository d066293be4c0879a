"""Many results on one page: a table, charts of accuracy against cost, and each in detail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from clip_eval.data.faults import DataError
from clip_eval.data.samples import Source
from clip_eval.errors import EvaluationError
from clip_eval.prompts.named_data import open_data
from clip_eval.report.charts import Point, cost_chart
from clip_eval.report.rendering import render_page
from clip_eval.report.result_page import ResultView, view_result
from clip_eval.report.result_table import make_tables
from clip_eval.report.table import main_metric
from clip_eval.results.result import Result, result_from_record
from clip_eval.results.stored import StoredResult

COSTS = (
    ("parameters", "parameters"),
    ("image_flops", "FLOP per image"),
    ("latency", "ms per image at batch size 1"),
)


class CostGroup(NamedTuple):
    """Charts of a metric against costs, for the models measured on one data set."""

    metric: str
    dataset: str
    charts: list[Markup]
    devices: list[str]


class Detail(NamedTuple):
    """A result in detail, and why it has no images."""

    title: str
    view: ResultView
    problem: str


def render_family(
    stored: Sequence[StoredResult],
    *,
    title: str,
    data: Sequence[str] = (),
    samples: int = 12,
    seed: int = 0,
) -> str:
    """Render one self-contained page of all results.

    Nothing that a result names is opened: a result may be a stranger's.

    Args:
        stored: The results.
        title: Heading.
        data: Data sets, as for `open_source`, from which the results made with a data set of the
            same name get their images.
        samples: Images per result.
        seed: Seed of their choice.
    """
    named = set(data)
    return render_page(
        "family.html.j2",
        title=title,
        tables=make_tables([one.record for one in stored]),
        costs=list(_cost_groups(stored)),
        details=[_detail(one, named, samples, seed) for one in stored],
    )


def _cost_groups(stored: Sequence[StoredResult]) -> Iterator[CostGroup]:
    """Yield the charts of each data set with measured models."""
    measured = [one.record for one in stored if one.record.get("cost")]
    for (data, metric), group in groupby(sorted(measured, key=_subject), key=_subject):
        records = list(group)
        yield CostGroup(
            metric=metric,
            dataset=data,
            charts=[
                cost_chart([_point(record, name) for record in records], label)
                for name, label in COSTS
            ],
            devices=sorted({str(record["cost"]["device"]) for record in records}),
        )


def _subject(record: Mapping[str, Any]) -> tuple[str, str]:
    return str(record.get("dataset")), main_metric(record)[0]


def _point(record: Mapping[str, Any], cost: str) -> Point:
    name, value = main_metric(record)
    found = record["cost"]
    x = found["image_latency"][0]["p50_ms"] if cost == "latency" else found.get(cost)
    interval = (record.get("ci95") or {}).get(name)
    return Point(str(record.get("model")), x or 0.0, value or 0.0, interval and tuple(interval))


def _detail(stored: StoredResult, data: Set[str], samples: int, seed: int) -> Detail:
    try:
        predictions = stored.predictions()
    except EvaluationError:  # a result from elsewhere has none
        predictions = []
    result = result_from_record(stored.record, predictions)
    problem, source = "", None
    try:
        source = _open_named(result, data)
    except (DataError, OSError) as error:
        problem = str(error)
    view = view_result(result, source, samples=samples, seed=seed)
    return Detail(title=stored.title, view=view, problem=problem)


def _open_named(result: Result, data: Set[str]) -> Source | None:
    """Open the data of a result if the user named it; nothing is downloaded."""
    settings = result.settings
    spec, split = settings.get("data"), settings.get("split")
    if not isinstance(spec, str) or spec not in data:
        return None
    if split is not None and (not isinstance(split, str) or Path(split).name != split):
        raise DataError(
            f"the split of {result.dataset} is {split!r}; expected the name of a folder"
        )
    source, _ = open_data(spec, split=split, download=False)
    return source

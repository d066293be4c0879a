"""Many results on one page: the numbers, what they cost, and each in detail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from clip_eval.data.faults import DataError
from clip_eval.data.samples import Source
from clip_eval.errors import EvaluationError
from clip_eval.prompts.named_data import open_data
from clip_eval.report.charts import Point, cost_chart
from clip_eval.report.result_page import page, result_sections
from clip_eval.report.table import main_metric, metric_name, percent
from clip_eval.results.result import Result, result_from_record
from clip_eval.results.stored import StoredResult

COSTS = (
    ("parameters", "parameters"),
    ("image_flops", "FLOP per image"),
    ("latency", "ms per image, alone"),
)


def render_family(
    stored: Sequence[StoredResult],
    *,
    title: str,
    data: Sequence[str] = (),
    samples: int = 12,
    seed: int = 0,
) -> str:
    """One self-contained page of all results.

    Nothing that a result names is opened: a result may be a stranger's.

    Args:
        stored: The results.
        title: Heading.
        data: Data sets, as for `open_source`, from which the results made with a data set of the
            same name get their pictures.
        samples: Images per result.
        seed: Which ones.
    """
    named = set(data)
    parts = [f"<h1>{escape(title)}</h1>", _table(stored), *_cost_sections(stored)]
    for number, one in enumerate(stored):
        parts.append(
            f"<details{' open' if len(stored) == 1 else ''}>"
            f"<summary><b>{escape(one.title)}</b></summary>"
            f'<div id="result-{number}">{_detail(one, named, samples, seed)}</div></details>'
        )
    return page(title, parts)


def _table(stored: Sequence[StoredResult]) -> str:
    rows = []
    order = sorted(range(len(stored)), key=lambda n: _place(stored[n].record))
    for number in order:
        record = stored[number].record
        name, value = main_metric(record)
        interval = (record.get("ci95") or {}).get(name)
        band = f"{percent(interval[0])} – {percent(interval[1])}" if interval else "–"
        width = 100 * value if value is not None else 0
        cells = (
            f'<td><a href="#result-{number}">{escape(str(record.get("model")))}</a></td>'
            f"<td>{escape(str(record.get('dataset')))}</td><td>{escape(metric_name(name))}</td>"
            f'<td class="number"><b>{percent(value)}</b></td><td class="number">{band}</td>'
            f'<td class="number">{_count(record.get("n"))}</td>'
            f'<td class="number">{_count(record.get("n_skipped"))}</td>'
            f'<td><div class="row-bar"><i style="width:{width:.1f}%"></i></div></td>'
        )
        rows.append(f"<tr>{cells}</tr>")
    head = (
        "<tr><th>model</th><th>data</th><th>metric</th>"
        '<th class="number">value</th><th class="number">95 % interval</th>'
        '<th class="number">n</th><th class="number">skipped</th><th></th></tr>'
    )
    return f'<div class="card scroll results"><table>{head}{"".join(rows)}</table></div>'


def _place(record: Mapping[str, Any]) -> tuple[str, str, float]:
    name, value = main_metric(record)
    return str(record.get("dataset")), name, -(value or 0.0)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _cost_sections(stored: Sequence[StoredResult]) -> Iterator[str]:
    """Accuracy against each cost, for each data set that has two or more measured models."""
    measured = [one.record for one in stored if one.record.get("cost")]
    key = _subject
    for (data, metric), group in groupby(sorted(measured, key=key), key=key):
        records = list(group)
        charts = []
        for name, label in COSTS:
            chart = cost_chart([_point(record, name) for record in records], label)
            charts.append(f'<div class="card">{chart}</div>' if chart else "")
        devices = sorted({str(record["cost"]["device"]) for record in records})
        yield (
            f"<h2>Cost and {escape(metric_name(metric))}: {escape(data)}</h2>"
            f'<div class="columns">{"".join(charts)}</div>'
            f'<p class="soft">latency on {escape(", ".join(devices))}</p>'
        )


def _subject(record: Mapping[str, Any]) -> tuple[str, str]:
    return str(record.get("dataset")), main_metric(record)[0]


def _point(record: Mapping[str, Any], cost: str) -> Point:
    name, value = main_metric(record)
    found = record["cost"]
    x = found["image_latency"][0]["p50_ms"] if cost == "latency" else found.get(cost)
    interval = (record.get("ci95") or {}).get(name)
    return Point(str(record.get("model")), x or 0.0, value or 0.0, interval and tuple(interval))


def _detail(stored: StoredResult, data: Set[str], samples: int, seed: int) -> str:
    try:
        predictions = stored.predictions()
    except EvaluationError:  # a result from elsewhere has none
        predictions = []
    result = result_from_record(stored.record, predictions)
    note, source = "", None
    try:
        source = _open_named(result, data)
    except (DataError, OSError) as error:
        note = f'<div class="note"><p>no pictures: {escape(str(error))}</p></div>'
    return note + "\n".join(result_sections(result, source, samples=samples, seed=seed))


def _open_named(result: Result, data: Set[str]) -> Source | None:
    """The data of a result if the user named it; nothing is downloaded for it."""
    settings = result.settings
    spec, split = settings.get("data"), settings.get("split")
    if not isinstance(spec, str) or spec not in data:
        return None
    if split is not None and (not isinstance(split, str) or Path(split).name != split):
        raise DataError(f"the split of {result.dataset} is {split!r}; expected a folder's name")
    source, _ = open_data(spec, split=split, download=False)
    return source

"""Tables of many results: the same columns in a terminal, in Markdown and on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from clip_eval.data.text_width import display_width, pad
from clip_eval.report.table import (
    describe_cost,
    format_count,
    main_metric,
    metric_name,
    percent,
    sort_key,
    task_title,
)

TEXT_COLUMNS = ("data", "model")


class Row(NamedTuple):
    """One result: its number among the records, its main metric's value, and its cells."""

    number: int
    value: float | None
    cells: tuple[str, ...]


class ResultTable(NamedTuple):
    """The results of one task, best first for each data set.

    Attributes:
        title: The task, in words.
        columns: Headings, one per cell; the first ones are `TEXT_COLUMNS`.
        rows: The results.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def make_tables(records: Sequence[Mapping[str, Any]]) -> list[ResultTable]:
    """Make a table per task: all metrics, interval and chance of the first, n, cost."""
    numbered = sorted(enumerate(records), key=lambda one: (_group(one[1]), sort_key(one[1])))
    return [
        _make_table(list(members)) for _, members in groupby(numbered, lambda one: _group(one[1]))
    ]


def _group(record: Mapping[str, Any]) -> tuple[str, str]:
    return _task(record), main_metric(record)[0]


def _task(record: Mapping[str, Any]) -> str:
    return str(record.get("task_name") or record.get("task"))


def _make_table(members: Sequence[tuple[int, Mapping[str, Any]]]) -> ResultTable:
    records = [record for _, record in members]
    names = dict.fromkeys(name for record in records for name in record.get("metrics") or {})
    metrics = [
        name for name in names if any(_metric(record, name) is not None for record in records)
    ]
    costs = dict.fromkeys(name for record in records for name in describe_cost(record.get("cost")))
    head, *others = metrics or [""]
    columns = (
        *(*TEXT_COLUMNS, metric_name(head), "95 % interval", "chance"),
        *map(metric_name, others),
        *("n", "skipped", *costs),
    )
    return ResultTable(
        title=task_title(_task(records[0])),
        columns=columns,
        rows=tuple(
            Row(number, _metric(record, head), tuple(_cells(record, head, others, costs)))
            for number, record in members
        ),
    )


def _metric(record: Mapping[str, Any], name: str) -> float | None:
    value: float | None = (record.get("metrics") or {}).get(name)
    return value


def _cells(
    record: Mapping[str, Any], head: str, others: Sequence[str], costs: Mapping[str, None]
) -> Iterator[str]:
    interval, cost = (record.get("ci95") or {}).get(head), describe_cost(record.get("cost"))
    yield from (str(record.get("dataset", "")), str(record.get("model", "")))
    yield percent(_metric(record, head))
    yield f"{percent(interval[0])} to {percent(interval[1])}" if interval else "–"
    yield percent(record.get("chance"))
    yield from (percent(_metric(record, name)) for name in others)
    yield from (format_count(record.get("n")), format_count(record.get("n_skipped")))
    yield from (cost.get(name, "–") for name in costs)


def format_tables(records: Sequence[Mapping[str, Any]], *, heading: str = "") -> str:
    """Format results as Markdown tables, each below its title; `heading` comes before a title."""
    return "\n\n".join(
        f"{heading}{table.title}\n\n{_format_table(table)}" for table in make_tables(records)
    )


def _format_table(table: ResultTable) -> str:
    rows = [table.columns, *(row.cells for row in table.rows)]
    rows = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (_align(n, *cell) for n, cell in enumerate(zip(row, widths, strict=True)))
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * (width + 2) for width in widths]
    texts = len(TEXT_COLUMNS)
    rule[texts:] = [f"{dashes[:-1]}:" for dashes in rule[texts:]]
    lines.insert(1, "|" + "|".join(rule) + "|")
    return "\n".join(lines)


def _align(column: int, cell: str, width: int) -> str:
    """Pad a cell: texts on the right, numbers on the left."""
    padded = pad(cell, width)
    return padded if column < len(TEXT_COLUMNS) else f"{padded[len(cell) :]}{cell}"

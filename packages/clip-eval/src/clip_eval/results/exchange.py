"""Results in the formats of other tools: CLIP_benchmark's JSON and CSV, DataComp's JSON lines."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_eval.errors import EvaluationError
from clip_eval.metrics.functions import wilson_interval
from clip_eval.results.files import (
    RESULT_FILE,
    parse_json,
    read_json,
    read_text,
    refuse_existing,
    write_json,
)
from clip_eval.results.result import SCHEMA_VERSION, replace_non_finite
from clip_eval.results.stored import SHARES, check_record

FIRST_COLUMNS = ("dataset", "model", "pretrained", "task", "language", "model_fullname")


def read_foreign(path: str | Path) -> list[dict[str, Any]]:
    """Read records from CLIP_benchmark's JSON or DataComp's `eval_results.jsonl`.

    Raises:
        EvaluationError: The file cannot be read, is neither, or holds values out of range.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        return [_from_datacomp(row, path) for row in _json_lines(path)]
    record = read_json(path)
    if not {"dataset", "metrics", "task"} <= set(record):
        raise EvaluationError(
            f"{path}: expected CLIP_benchmark's keys dataset, task and metrics, got "
            f"{', '.join(sorted(record)[:8])}"
        )
    return [_ours(record, path, "CLIP_benchmark")]


def import_results(paths: Sequence[str | Path], out: Path, *, overwrite: bool) -> list[Path]:
    """Write each result of another tool as a result directory below `out`.

    Raises:
        EvaluationError: A file cannot be read, or a result exists already.
    """
    found = [record for path in paths for record in read_foreign(path)]
    written = []
    for record in found:
        parts = (record["model"], record.get("pretrained", ""), record["dataset"], record["task"])
        words = [re.sub(r"[^\w.@+-]+", "-", str(part)).strip("-.") for part in parts if part]
        place = out / "--".join(words) / RESULT_FILE
        refuse_existing(place, overwrite=overwrite)
        written.append(place)
    if len(set(written)) < len(written):
        raise EvaluationError("two of the files have the same model, data set and task")
    for place, record in zip(written, found, strict=True):
        write_json(place, record)
    return written


def export_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Format results as the CSV table of CLIP_benchmark's `build`, one row each, columns sorted."""
    rows = []
    for record in records:
        row = {name: record.get(name, "") for name in FIRST_COLUMNS}
        row["model_fullname"] = f"{record.get('model', '')} {record.get('pretrained', '')}"
        row |= {k: "" if v is None else v for k, v in (record.get("metrics") or {}).items()}
        row |= {name: record[name] for name in ("n", "n_skipped") if name in record}
        for metric, interval in (record.get("ci95") or {}).items():
            if interval:
                row[f"{metric}_low"], row[f"{metric}_high"] = interval
        rows.append(row)
    columns = list(FIRST_COLUMNS)
    columns += sorted({name for row in rows for name in row} - set(columns))
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def export_json(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a record that CLIP_benchmark's `build` reads."""
    names = ("dataset", "model", "pretrained", "task", "metrics", "language")
    return {name: record.get(name, "") for name in names}


def _ours(record: Mapping[str, Any], path: Path, tool: str) -> dict[str, Any]:
    check_record(record, path)
    metrics = replace_non_finite(record["metrics"] or {})
    n = record.get("n")
    shares = {k: v for k, v in metrics.items() if SHARES.fullmatch(k) and v is not None}
    return replace_non_finite(
        {
            "model": "",
            "pretrained": "",
            "language": "en",
            "schema_version": SCHEMA_VERSION,
            **record,
            "metrics": metrics,
            "ci95": {name: wilson_interval(value * n, n) for name, value in shares.items()}
            if isinstance(n, int)
            else {},
            "settings": {**(record.get("settings") or {}), "imported_from": f"{tool}: {path.name}"},
        }
    )


def _from_datacomp(row: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if not isinstance(row.get("metrics"), dict) or "dataset" not in row:
        raise EvaluationError(f"{path}: expected DataComp's keys dataset and metrics")
    metrics = dict(row["metrics"])
    main = metrics.pop("main_metric", None)
    names = [name for name, value in metrics.items() if value == main and main is not None]
    ordered = {name: metrics[name] for name in [*names[:1], *metrics]}
    if main is not None and not names:
        ordered = {"main_metric": main, **ordered}
    retrieval = any("retrieval" in name for name in metrics)
    task = "zeroshot_retrieval" if retrieval else "zeroshot_classification"
    model = row.get("model") or path.resolve().parent.name
    record = {"task": task, **row, "model": model, "metrics": ordered}
    return _ours(record, path, "DataComp")


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return parse_json((line for line in read_text(path).split("\n") if line.strip()), path)

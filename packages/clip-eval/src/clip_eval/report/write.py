"""The files of a result."""

from __future__ import annotations

from pathlib import Path

from clip_eval.data.samples import Source
from clip_eval.report.result_page import render_report
from clip_eval.results.files import (
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESULT_FILE,
    write_json,
    write_json_lines,
    write_text,
)
from clip_eval.results.result import Result


def write_result(
    directory: Path,
    result: Result,
    source: Source,
    *,
    run_directory: Path | None,
    samples: int,
    seed: int,
) -> None:
    """Write predictions, page and, last, the record, whose presence says that all is complete.

    An older record is removed first, so that none lies beside files of another evaluation.
    """
    page = render_report(result, source, run_directory=run_directory, samples=samples, seed=seed)
    (directory / RESULT_FILE).unlink(missing_ok=True)
    write_json_lines(directory / PREDICTIONS_FILE, result.prediction_records())
    write_text(directory / REPORT_FILE, page)
    write_json(directory / RESULT_FILE, result.to_dict())

"""Several results in one table, the same in a terminal, in Markdown and on a page."""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from clip_eval.cli.main import main
from clip_eval.plurals import count_noun
from clip_eval.report.result_table import format_tables, make_tables


def cells(table: str) -> list[list[str]]:
    """The cells of Markdown rows, the rule left out."""
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.fixture
def two_runs(trained_directory: Path, color_folder: Path, tmp_path: Path) -> list[str]:
    other = tmp_path / "other"
    shutil.copytree(trained_directory, other)
    (other / "zeroshot_classification_templates.txt").write_text("{c}\n")
    models = ["--model", str(trained_directory), str(other), "--data", str(color_folder)]
    return ["run", *models, "--out", str(tmp_path / "results"), "--cost", "--quiet"]


def test_terminal_markdown_and_page_say_the_same(
    two_runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(two_runs) == 0
    shown = capsys.readouterr().out
    rows = cells(shown)
    assert rows[0] == [
        *("data", "model", "accuracy", "95 % interval", "chance", "mean per-class recall"),
        *("n", "skipped", "million parameters", "GFLOP per image", "ms per image"),
    ]
    assert [row[1] for row in rows[1:]] == ["colors-run", "other"]
    assert rows[1][2:8] == ["100.0 %", "75.8 % to 100.0 %", "33.3 %", "100.0 %", "12", "0"]
    assert main(["report", str(tmp_path / "results")]) == 0
    assert cells(capsys.readouterr().out) == rows
    assert cells((tmp_path / "results" / "family.md").read_text(encoding="utf-8")) == rows
    page = (tmp_path / "results" / "family.html").read_text(encoding="utf-8")
    table = page[page.index('class="card scroll results"') : page.index("</table>")]
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", table)
    plain = [unescape(re.sub("<[^>]*>", "", cell)) for cell in found]
    assert [cell for cell in plain if cell] == [cell for row in rows for cell in row]

    assert main(two_runs) == 0
    kept = capsys.readouterr().out
    assert re.search(r"kept \S+/result.json: colors-run on colors: accuracy 100.0 %", kept)
    assert cells(kept) == rows


def test_a_single_kept_result_prints_its_numbers(
    two_runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del two_runs[3]  # one model
    assert main(two_runs) == 0
    first = capsys.readouterr().out.split("\nwrote ")[0]
    assert main(two_runs) == 0
    again, _, kept = capsys.readouterr().out.partition("\nkept ")
    assert again == first
    assert "same weights, prompts and samples" in kept
    assert "zero-shot" not in first + (tmp_path / "results" / "report.html").read_text()


def test_each_task_has_a_table_of_its_own_metrics() -> None:
    def record(task: str, model: str, **metrics: float | None) -> dict[str, Any]:
        return {"task_name": task, "dataset": "d", "model": model, "metrics": metrics, "n": 1}

    retrieval = {"image_retrieval_recall@1": 0.25, "text_retrieval_recall@1": 0.5}
    records = [
        record("zeroshot_classification", "a|b", acc1=0.5, acc5=None),
        record("zeroshot_retrieval", "c", **retrieval),
        record("zeroshot_classification", "best", acc1=0.75, acc5=None),
        record("their_task", "d"),
    ]
    tables = {table.title: table for table in make_tables(records)}
    assert list(tables) == ["their_task", "classification by class prompts", "retrieval"]
    classes = tables["classification by class prompts"]
    assert "top-5 accuracy" not in classes.columns  # no result has one
    assert [row.number for row in classes.rows] == [2, 0]  # best first
    assert tables["retrieval"].columns[2:6] == (
        *("image recall @1", "95 % interval", "chance", "text recall @1"),
    )
    text = format_tables(records, heading="## ")
    assert text.count("## ") == 3
    assert "a\\|b" in text


def test_counts_agree_with_their_nouns(
    two_runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert count_noun(1, "result") == "1 result"
    assert count_noun(2000, "class", "classes") == "2,000 classes"
    del two_runs[3]
    assert main(two_runs) == 0
    assert main(["export", str(tmp_path / "results"), "--out", str(tmp_path / "t.csv")]) == 0
    assert "wrote 1 result to" in capsys.readouterr().out

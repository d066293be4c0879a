from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clip_eval.cli.main import main

THEIRS = {
    "dataset": "wds/cars",
    "model": "ViT-B-32",
    "pretrained": "laion2b_s34b_b79k",
    "task": "zeroshot_classification",
    "metrics": {"acc1": 0.5, "acc5": float("nan"), "mean_per_class_recall": 0.4},
    "language": "en",
}
LINES = [
    {
        "key": "imagenet1k",
        "dataset": "ImageNet 1k",
        "metrics": {"acc5": 0.9, "acc1": 0.6, "mean_per_class_recall": 0.6, "main_metric": 0.6},
    },
    {
        "key": "retrieval/flickr",
        "dataset": "Flickr",
        "metrics": {
            "image_retrieval_recall@1": 0.4,
            "text_retrieval_recall@1": 0.6,
            "mean_recall@1": 0.5,
            "main_metric": 0.5,
        },
    },
    {"key": "fairface", "dataset": "FairFace", "metrics": {"acc_race_avg": 0.7}},
]


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    (tmp_path / "theirs.json").write_text(json.dumps(THEIRS))
    (tmp_path / "run").mkdir()
    lines = "".join(f"{json.dumps(line)}\n" for line in LINES)
    (tmp_path / "run" / "eval_results.jsonl").write_text(lines)
    files = [str(tmp_path / "theirs.json"), str(tmp_path / "run" / "eval_results.jsonl")]
    assert main(["import-results", *files, "--out", str(tmp_path / "ours")]) == 0
    return tmp_path / "ours"


def test_results_of_others(imported: Path, read_json: Callable[[Path], Any]) -> None:
    records = {r["dataset"]: r for r in map(read_json, imported.rglob("result.json"))}
    assert set(records) == {"wds/cars", "ImageNet 1k", "Flickr", "FairFace"}
    cars = records["wds/cars"]
    assert cars["metrics"] == {"acc1": 0.5, "acc5": None, "mean_per_class_recall": 0.4}
    assert cars["settings"]["imported_from"] == "CLIP_benchmark: theirs.json"
    assert next(iter(records["ImageNet 1k"]["metrics"])) == "acc1"
    assert next(iter(records["Flickr"]["metrics"])) == "mean_recall@1"
    assert records["Flickr"]["task"] == "zeroshot_retrieval"
    assert records["FairFace"]["model"] == "run"


def test_a_page_and_a_table_of_imported_results(
    imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(imported)]) == 0
    table = (imported / "family.md").read_text()
    assert "| wds/cars    | ViT-B-32 |   50.0 %" in table
    assert table.count("| accuracy | 95 % interval | chance |") == 1
    assert table.count("\n|") == 3 * 2 + 4  # three tables: two kinds of accuracy, and retrieval
    assert "60.0 %" in (imported / "family.html").read_text()


def test_what_is_no_result_is_refused(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text, words in (
        ("a.json", "{", "cannot be read"),
        ("b.json", '{"x": 1}', "expected CLIP_benchmark's keys"),
        ("c.json", "[]", "expected a JSON object"),
        ("d.jsonl", '{"dataset": "x"}\n', "expected DataComp's keys"),
        ("e.jsonl", "[1]\n", "one JSON object a line"),
        ("f.json", json.dumps(THEIRS), "exists already"),
        ("g.json", json.dumps(THEIRS | {"metrics": [1]}), "expected metrics to be an object"),
        ("h.json", json.dumps(THEIRS | {"metrics": {"acc1": "x"}}), "acc1 to be a number, got 'x'"),
        ("i.json", json.dumps(THEIRS | {"metrics": {"acc1": 63.2}}), "a share from 0 to 1, got 63"),
        ("j.json", json.dumps(THEIRS | {"n": "many"}), "expected n to be a whole number"),
        ("k.json", json.dumps(THEIRS | {"n": -1}), "expected n to be a whole number"),
        ("l.json", json.dumps(THEIRS | {"settings": [1]}), "expected settings to be an object"),
        ("m.json", json.dumps(THEIRS | {"skipped": [{"x": 1}]}), "is no result ("),
    ):
        (tmp_path / name).write_text(text)
        assert main(["import-results", str(tmp_path / name), "--out", str(imported)]) == 2
        assert words in capsys.readouterr().err
    files = [str(tmp_path / "f.json")] * 2
    assert main(["import-results", *files, "--out", str(tmp_path / "twice")]) == 2
    assert "two of the files have the same" in capsys.readouterr().err


def test_names_from_elsewhere_are_escaped(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    fields = dict.fromkeys(("dataset", "model", "pretrained", "task", "language"), script)
    theirs = {**fields, "metrics": {script: 0.5}, "settings": None}
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    out = tmp_path / "ours"
    assert main(["import-results", str(tmp_path / "theirs.json"), "--out", str(out)]) == 0
    assert main(["report", str(out)]) == 0
    assert "<script" not in (out / "family.html").read_text()


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.slow
def test_clip_benchmarks_build_reads_what_is_exported_and_what_is_ours(
    imported: Path, trained_directory: Path, color_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(imported)])
    out = tmp_path / "export"
    for target in (out / "ours.csv", out / "json"):
        assert main(["export", str(imported), "--out", str(target)]) == 0
        assert main(["export", str(imported), "--out", str(target)]) == 2
        assert main(["export", str(imported), "--out", str(target), "--overwrite"]) == 0
    command = ["run", "--model", str(trained_directory), "--data", str(color_folder), "--quiet"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    result = tmp_path / "run" / "result.json"

    peer = "from clip_benchmark.cli import main; main()"  # leaves its files open: not in here
    arguments = ["build", str(out / "json"), str(result), "--output", str(out / "theirs.csv")]
    subprocess.run([sys.executable, "-c", peer, *arguments], check=True, capture_output=True)
    theirs = {row["dataset"]: row for row in rows_of(out / "theirs.csv")}
    own = theirs.pop("colors")
    assert (own["acc1"], own["task"], own["n"]) == ("1.0", "zeroshot_classification", "12")
    ours = {row["dataset"]: row for row in rows_of(out / "ours.csv")}
    assert set(ours) == set(theirs)
    for dataset, row in ours.items():
        for column, value in row.items():
            assert theirs[dataset][column] == value, (dataset, column)

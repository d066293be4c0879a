from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clip_eval.cli.main import main


def write_result(place: Path, guesses: dict[str, int], *, model: str = "m", **more: Any) -> Path:
    """A result of images whose class is 0, with the given guesses."""
    place.mkdir(parents=True)
    names = ["cat", "dog"]
    rows = [
        {
            "index": n,
            "key": key,
            "label": "cat",
            "label_id": 0,
            "correct": guess == 0,
            "guesses": [names[guess]],
            "guess_ids": [guess],
            "probabilities": [0.9],
        }
        for n, (key, guess) in enumerate(guesses.items())
    ]
    (place / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    share = sum(row["correct"] for row in rows) / len(rows)
    record = {"dataset": "pets", "model": model, "task": "zeroshot_classification"}
    record |= {"metrics": {"acc1": share}, "n": len(rows), "ci95": {"acc1": [0, 1]}, **more}
    (place / "result.json").write_text(json.dumps(record))
    return place


def test_what_flipped_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], read_json: Callable[[Path], Any]
) -> None:
    first = write_result(tmp_path / "a", {"1": 0, "2": 0, "3": 1, "4": 1, "old": 0}, model="a")
    second = write_result(tmp_path / "b", {"3": 0, "1": 0, "2": 1, "4": 0}, model="b")
    assert main(["compare", str(first), str(second)]) == 0
    shown = capsys.readouterr().out
    assert "accuracy  60.0 % -> 75.0 %" in shown
    assert "difference in accuracy  +25.0 %" in shown
    assert "McNemar, exact" in shown
    assert "flipped  2 better, 1 worse, of 4 samples" in shown
    assert "may be chance" in shown
    assert "worse: 2 (cat): cat -> dog" in shown
    assert "better: 4 (cat): dog -> cat" in shown
    assert "warning: 1 sample is in only one of the results" in shown
    assert main(["compare", str(first), str(second), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert [flip["key"] for flip in record["better"]] == ["3", "4"]
    assert record["tests"]["acc1"]["p_value"] == 1.0
    assert record["tests"]["acc1"]["difference"] == pytest.approx(0.25)


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_result(tmp_path / "a", {"1": 0})
    for name, words, other in (
        ("b", "no sample in common", write_result(tmp_path / "b", {"2": 0})),
        (
            "c",
            "only equal tasks",
            write_result(tmp_path / "c", {"1": 0}, task="zeroshot_retrieval"),
        ),
        ("d", "no result.json", tmp_path / "d"),
    ):
        assert main(["compare", str(first), str(other)]) == 2, name
        assert words in capsys.readouterr().err
    rows = (first / "predictions.jsonl").read_text()
    (tmp_path / "b" / "predictions.jsonl").write_text(rows.replace('"cat"', '"cow"'))
    assert main(["compare", str(first), str(tmp_path / "b")]) == 2
    assert "another class" in capsys.readouterr().err
    (tmp_path / "b" / "predictions.jsonl").write_text(rows * 2)
    assert main(["compare", str(first), str(tmp_path / "b")]) == 2
    assert "two samples are called '1'" in capsys.readouterr().err


def test_other_data_under_the_same_names_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_result(tmp_path / "a", {"1": 0, "2": 1}, content="ab")
    for name, content, same in (("b", "ab", True), ("c", "cd", False), ("d", "", True)):
        second = write_result(tmp_path / name, {"1": 0, "2": 0}, content=content)
        assert main(["compare", str(first), str(second)]) == 0
        assert ("warning: the data differs" not in capsys.readouterr().out) is same
        assert main(["compare", str(first), str(second), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["same_data"] is same


def test_directories_of_several_results_are_paired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("old", "new"):
        write_result(tmp_path / name / "x", {"1": 0}, model=name)
        write_result(tmp_path / name / "y", {"1": 0}, model=name, dataset="cars")
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    shown = capsys.readouterr().out
    assert "pets: old -> new" in shown
    assert "cars: old -> new" in shown


def write_records(place: Path, task: str, rows: list[dict[str, Any]], **metrics: float) -> str:
    place.mkdir(parents=True)
    (place / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    record = {"task_name": task, "model": place.name, "dataset": "d", "metrics": metrics, "n": 1}
    (place / "result.json").write_text(json.dumps(record))
    return str(place)


def test_retrieval_is_tested_in_each_direction_and_by_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(images: set[int], texts: set[int]) -> list[dict[str, Any]]:
        found = [(f"image {n}", n in images) for n in range(6)]
        found += [(f"text {n} {k}", n in texts) for n in range(6) for k in range(5)]
        return [{"key": key, "rank": 0 if right else 3, "correct": right} for key, right in found]

    first = write_records(tmp_path / "a", "zeroshot_retrieval", rows({0, 1, 2}, {0, 1}))
    second = write_records(tmp_path / "b", "zeroshot_retrieval", rows({0, 1}, {0, 1, 2, 3}))
    assert main(["compare", first, second]) == 0
    shown = capsys.readouterr().out
    assert "difference in image recall @1  +33.3 %" in shown
    assert "difference in text recall @1  -16.7 %" in shown
    assert shown.count("may be chance") == 2  # ten captions are better, but they are of two images
    assert "flipped  10 better, 1 worse, of 36 queries" in shown
    assert main(["compare", first, second, "--json"]) == 0
    tests = json.loads(capsys.readouterr().out)[0]["tests"]
    assert [test["n"] for test in tests.values()] == [30, 6]


def test_several_labels_have_a_test_of_another_name_than_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(precision: float, right: bool) -> list[dict[str, Any]]:
        row = {"labels": ["cat"], "guesses": ["cat"], "average_precision": precision}
        found = [{**row, "key": str(n), "correct": right} for n in range(40)]
        none = {"key": "none", "labels": [], "average_precision": None, "correct": False}
        return [*found, {**row, **none}]

    task = "zeroshot_multilabel"
    first = write_records(tmp_path / "a", task, rows(0.75, False), mean_average_precision=0.9)
    second = write_records(tmp_path / "b", task, rows(0.5, True), mean_average_precision=0.8)
    assert main(["compare", first, second]) == 0
    shown = capsys.readouterr().out
    assert "difference in average precision per image  -25.0 %" in shown
    assert "is significant" in shown
    assert "flipped  40 better, 0 worse, of 41 first guesses" in shown
    other = write_records(tmp_path / "c", "zeroshot_classification", rows(0.5, True))
    assert main(["compare", first, other]) == 2
    assert "only equal tasks" in capsys.readouterr().err

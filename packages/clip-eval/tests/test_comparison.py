from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_eval.cli import main
from clip_eval.comparison import mcnemar, paired_test


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 70), (700, 650)])
def test_mcnemar_is_the_binomial_test(lost: int, won: int) -> None:
    from scipy.stats import binomtest

    n = lost + won
    expected = binomtest(won, n, 0.5).pvalue if n else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(lost, won) == mcnemar(won, lost)


@pytest.mark.parametrize(
    ("both", "lost", "won", "neither", "expected"),
    # Newcombe 1998 (Statistics in Medicine 17: 2635-2650), table II, method 10; and no flip at
    # all, where it is the Wilson interval of 30 of 30
    [
        (36, 12, 2, 0, (0.0569, 0.3404)),
        (30, 0, 0, 0, (-0.1135, 0.1135)),
    ],
)
def test_the_interval_is_newcombes(
    both: int, lost: int, won: int, neither: int, expected: tuple[float, float]
) -> None:
    second = [True] * (both + lost) + [False] * (won + neither)
    first = [True] * both + [False] * lost + [True] * won + [False] * neither
    found = paired_test(first, second)
    assert found.difference == pytest.approx((lost - won) / len(first))
    assert found.ci95 == pytest.approx(expected, abs=1e-4)


def test_the_interval_covers_the_truth() -> None:
    draw = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        base = draw.random(200) < 0.6
        other = np.where(draw.random(200) < 0.2, draw.random(200) < 0.9, base)
        low, high = paired_test(base, other).ci95
        inside += low <= 0.2 * 0.3 <= high
    assert 0.92 <= inside / 400 <= 0.99


def test_lists_must_fit() -> None:
    with pytest.raises(ValueError, match="two lists of equal length"):
        paired_test([True], [True, False])
    with pytest.raises(ValueError, match="two lists of equal length"):
        paired_test([], [])


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
    assert "difference  +25.0 %" in shown
    assert "flipped  2 better, 1 worse, of 4 samples" in shown
    assert "may be chance" in shown
    assert "worse: 2 (cat): cat -> dog" in shown
    assert "better: 4 (cat): dog -> cat" in shown
    assert "warning: 1 samples are in one of the results alone" in shown
    assert main(["compare", str(first), str(second), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert [flip["key"] for flip in record["better"]] == ["3", "4"]
    assert record["p_value"] == 1.0
    assert math.isclose(record["difference"], 0.25)


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

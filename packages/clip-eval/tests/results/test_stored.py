from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torchvision.datasets
from clip_eval.cli.main import main
from clip_eval.data import DataError

RECORD = {
    "dataset": "cars",
    "model": "ViT-B-32",
    "task": "zeroshot_classification",
    "metrics": {"acc1": 0.5},
}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"metrics": 3}, "expected metrics to be an object, got 3"),
        ({"metrics": {"acc1": 0.5}, "n": "many"}, "expected n to be a whole number"),
        ({"metrics": {"acc1": 0.5}, "ci95": {"acc1": [0.1]}}, "interval of two numbers"),
        ({"metrics": {"acc1": 0.5}, "warnings": [1]}, "expected warnings to be a list of texts"),
        ({"metrics": {"acc1": 0.5}, "templates": 3}, "expected templates to be a list"),
        ({"metrics": {"acc1": 0.5}, "per_class": 3}, "is no result ("),
    ],
)
def test_a_damaged_result_is_one_clear_line(
    record: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "result.json").write_text(json.dumps(record))
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_result_that_is_there_twice_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = RECORD | {"settings": {"key": "a"}}
    others = ({"settings": {"key": "b"}}, {"model": "copy"}, {"settings": None}, {"settings": {}})
    for number, changes in enumerate(({}, {}, *others)):
        (tmp_path / "out" / str(number)).mkdir(parents=True)
        place = tmp_path / "out" / str(number) / "result.json"
        place.write_text(json.dumps(record | changes))
    assert main(["report", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("| cars |") == 1 + len(others)


def test_a_damaged_result_in_the_way_is_no_crash(
    trained_directory: Path,
    color_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "out").mkdir()
    place = tmp_path / "out" / "result.json"
    run = ["run", "--model", str(trained_directory), "--data", str(color_folder), "--quiet"]
    for settings, words in ((None, "was made otherwise"), ([1], "expected settings to be an obj")):
        place.write_text(json.dumps({"settings": settings}))
        assert main([*run, "--out", str(place.parent)]) == 2
        assert words in capsys.readouterr().err
    assert main([*run, "--out", str(place.parent), "--overwrite"]) == 0


def test_a_report_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(self: object) -> None:
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    record = RECORD | {"settings": {"data": f"cifar10:{tmp_path / 'gone'}"}}
    (tmp_path / "result.json").write_text(json.dumps(record))
    spec = f"cifar10:{tmp_path / 'gone'}"
    assert main(["report", str(tmp_path), "--data", spec]) == 0
    assert "no images: cifar10: not found" in (tmp_path / "family.html").read_text()


def test_a_report_opens_nothing_that_a_result_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_data(*arguments: object, **_: object) -> None:
        opened.append(arguments[0])
        raise DataError("not here")

    opened: list[object] = []
    monkeypatch.setattr("clip_eval.report.family.open_data", open_data)
    specs = ("wds:http://127.0.0.1:9/x", "/etc", "csv:/etc/passwd", 7, ["a"], {})
    for number, spec in enumerate(specs):
        settings = {"data": spec, "classnames_from": "/etc/passwd", "split": "../x", "key": number}
        (tmp_path / str(number)).mkdir()
        record = json.dumps(RECORD | {"settings": settings})
        (tmp_path / str(number) / "result.json").write_text(record)
    assert main(["report", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path), "--overwrite", "--data", "/etc"]) == 0
    assert opened == []  # the one that is named has a split that leads out of it
    assert "no images: the split of" in (tmp_path / "family.html").read_text()
    settings = {"data": "/etc", "split": "val", "key": "k"}
    (tmp_path / "1" / "result.json").write_text(json.dumps(RECORD | {"settings": settings}))
    assert main(["report", str(tmp_path), "--overwrite", "--data", "/etc"]) == 0
    assert opened == ["/etc"]

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clip_eval import EvaluationError
from clip_eval.results.files import prepare_output, write_json, write_json_lines, write_text


def test_files_are_whole_and_leave_nothing_beside_them(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    write_json_lines(tmp_path / "b.jsonl", [{"x": 1}, {"x": 2}])
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": [1, None]}
    assert (tmp_path / "b.jsonl").read_text() == '{"x": 1}\n{"x": 2}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.jsonl"]


def test_what_was_there_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(EvaluationError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_output_that_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    prepare_output(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(EvaluationError, match="cannot be written"):
            prepare_output(path)

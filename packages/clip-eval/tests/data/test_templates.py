from __future__ import annotations

from pathlib import Path

import pytest
from clip_eval.data import DataError, read_templates
from clip_eval.data.templates import check_templates, fill_template, find_templates


def test_only_the_slot_is_replaced_and_names_may_carry_braces() -> None:
    assert fill_template("a {c} in {0}, {c}", "{x} dog") == "a {x} dog in {0}, {x} dog"


def test_lines_and_json_are_read(tmp_path: Path) -> None:
    lines, listed = tmp_path / "t.txt", tmp_path / "t.json"
    lines.write_bytes("\ufeffa photo of {c}\r\n\r\nfoto: {c} ü\r\n".encode())
    listed.write_text('["a {c}", "b {c}"]')
    assert read_templates(lines) == ("a photo of {c}", "foto: {c} ü")
    assert read_templates(listed) == ("a {c}", "b {c}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a photo of {}\n", "no {c}"),
        (b"", "at least one"),
        (b"\xff\xfe{c}", "not UTF-8"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_templates(path)


def test_bad_json_and_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_templates(path)
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="JSON list"):
        read_templates(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_templates(tmp_path / "absent.txt")


def test_one_string_is_not_a_list_of_templates() -> None:
    with pytest.raises(DataError, match="one string"):
        check_templates("a {c}")


def test_saved_templates_are_found(tmp_path: Path) -> None:
    assert find_templates(tmp_path) is None
    (tmp_path / "zeroshot_classification_templates.txt").write_text("x {c}\n")
    assert find_templates(tmp_path) == ("x {c}",)

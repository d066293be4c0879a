from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from clip_eval.data import ClassList, DataError
from clip_eval.data.class_names import match_folders


def test_plain_list_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffzebra\r\ncafé {x}\r\nant\r\n\r\n".encode())
    assert ClassList.read(path).names == ("zebra", "café {x}", "ant")


def test_tab_and_json_map_folders_to_names(tmp_path: Path) -> None:
    tabs, mapping, listed = (tmp_path / name for name in ("a.txt", "b.json", "c.json"))
    tabs.write_text("n02\ttench\nn01\tgoldfish\n")
    mapping.write_text('{"n02": "tench", "n01": "goldfish"}')
    listed.write_text('["x", "y"]')
    for path in (tabs, mapping):
        found = ClassList.read(path)
        assert found == ClassList(("tench", "goldfish"), ("n02", "n01"))
    assert ClassList.read(listed).folders == ("x", "y")


def test_an_empty_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("a\n\nb\n")
    with pytest.raises(DataError, match="line 2 is empty"):
        ClassList.read(path)
    path.write_text("x\tcat\ny\tdog\nx\tcow\n")
    with pytest.raises(DataError, match="names 'x' more than once"):
        ClassList.read(path)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "3"])
def test_bad_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / ("classes.json" if text else "classes.txt")
    path.write_text(text)
    with pytest.raises(DataError):
        ClassList.read(path)


def test_duplicates_are_named_not_refused() -> None:
    assert ClassList.of(["missile", "a", "missile"]).duplicates() == ("missile",)


def test_folders_match_by_name_whatever_the_order_and_unicode_form() -> None:
    classes = ClassList.of(["zebra", unicodedata.normalize("NFC", "café"), "10", "2"])
    decomposed = unicodedata.normalize("NFD", "café")
    labels = match_folders(["10", "2", decomposed, "zebra"], classes, where="x")
    assert labels == {"10": 2, "2": 3, decomposed: 1, "zebra": 0}


def test_a_mismatch_names_what_differs_on_both_sides() -> None:
    with pytest.raises(DataError) as caught:
        match_folders(["cat", "dgo"], ClassList.of(["cat", "dog"]), where="data/val")
    message = str(caught.value)
    assert "'dgo'" in message
    assert "'dog'" in message
    assert "data/val" in message
    assert "\n" not in message


def test_two_classes_cannot_share_a_folder() -> None:
    with pytest.raises(DataError, match="more than once"):
        match_folders(["a"], ClassList.of(["a", "a"]), where="x")

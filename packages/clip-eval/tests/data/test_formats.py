from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
from clip_eval.data import (
    FORMATS,
    DataError,
    Format,
    Sample,
    Source,
    absolute_source,
    is_missing,
    open_source,
    register_format,
)
from clip_eval.data.readers.image_folder import ImageFolder
from clip_eval.data.readers.webdataset import WebDataset


def test_a_bare_path_is_recognized(color_folder: Path, color_shards: Path) -> None:
    assert isinstance(open_source(color_folder), ImageFolder)
    for path in (
        color_shards,
        color_shards / "test",
        color_shards / "test" / "0.tar",
        color_shards / "test" / "{0..1}.tar",
        color_shards / "test" / "*.tar",
    ):
        assert isinstance(open_source(path), WebDataset)


def test_kinds_say_what_to_read(color_folder: Path, color_shards: Path) -> None:
    assert len(open_source(f"imagefolder:{color_folder}")) == 12
    assert len(open_source(f"wds:{color_shards}", split="test")) == 12


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("imagfolder:x", "did you mean imagefolder:"),
        ("parket:x", "did you mean parquet:"),
        ("wds:", "expected a path after wds:"),
        ("absent/dir", "no such file or directory"),
    ],
)
def test_what_is_not_understood_says_what_is_expected(spec: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_source(spec)


def test_other_files_and_empty_directories(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        open_source(tmp_path)
    (tmp_path / "x.zip").write_text("x")
    with pytest.raises(DataError, match="not a known kind of data"):
        open_source(tmp_path / "x.zip")


def test_a_path_with_a_colon_in_it_is_a_path(tmp_path: Path, encode: object) -> None:
    folder = tmp_path / "a:b" / "cat"
    folder.mkdir(parents=True)
    assert callable(encode)
    (folder / "1.png").write_bytes(encode((1, 2, 3)))
    assert len(open_source(tmp_path / "a:b")) == 1


@pytest.mark.parametrize("row", FORMATS.values(), ids=lambda row: row.kind)
def test_a_row_says_what_its_reader_accepts(row: Format) -> None:
    reader = row.load_reader()
    assert isinstance(reader, type)
    assert issubclass(reader, Source)
    assert reader.kind == row.kind
    options = set(inspect.signature(open_source).parameters) - {"spec"}
    (_, *parameters) = inspect.signature(reader).parameters
    if parameters == ["options"]:
        parameters = [field.name for field in dataclasses.fields(reader.options_type)]
    assert set(parameters) == set(row.accepts) <= options
    assert row.form.startswith(row.kind)


def test_there_is_one_format_for_what_no_row_recognizes() -> None:
    assert [row.kind for row in FORMATS.values() if row.is_default_directory] == ["imagefolder"]
    assert [row.kind for row in FORMATS.values() if row.is_default_pattern] == ["wds"]


def test_a_split_is_refused_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,caption\nx.png,x\n")
    with pytest.raises(DataError, match="csv data has no splits without a column 'split'; give"):
        open_source(f"csv:{tmp_path}/a.csv", split="test")
    (tmp_path / "metadata.pkl").touch()
    with pytest.raises(DataError, match="no split 'test', because its files tell no splits"):
        open_source(f"corenet:{tmp_path}", split="test")


def test_a_format_is_a_class_and_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Lines(Source):
        def __init__(self, path: str, *, split: str | None = None) -> None:
            self.lines = Path(path).read_text().splitlines()
            self.name = f"{path}/{split}"

        def __len__(self) -> int:
            return len(self.lines)

        def read(self, index: int) -> Sample:
            return Sample(self.lines[index], b"")

    monkeypatch.setattr("clip_eval.data.formats.FORMATS", dict(FORMATS))
    row = Format(
        kind="lines",
        reader=Lines,
        form="lines:FILE",
        content="lines of text",
        accepts=("split",),
        file_names=("*.lines",),
        contents=("*.lines",),
    )
    register_format(row)
    with pytest.raises(DataError, match="there is a data format 'lines' already"):
        register_format(row)
    (tmp_path / "a.lines").write_text("x\ny\n")
    assert open_source(f"lines:{tmp_path}/a.lines", split="s").name.endswith("a.lines/s")
    assert open_source(tmp_path / "a.lines").read(1).key == "y"
    with pytest.raises(IsADirectoryError):  # recognized, and given to the reader
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"did you mean lines:\? .*lines:FILE"):
        open_source("linse:x")
    assert absolute_source("lines:x") == f"lines:{Path.cwd()}/x"
    assert is_missing("lines:absent")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("wds:a/{0..3}.tar", "wds:HERE/a/{0..3}.tar"),
        ("a/*.tar", "HERE/a/*.tar"),
        ("there", "HERE/there"),
        ("csv:/x.csv", "csv:/x.csv"),
        ("cifar10:root", "cifar10:HERE/root"),
        *((same, same) for same in ("", "absent", "cifar10", "shapes:5", "hf-hub:org/model")),
        *((same, same) for same in ("wds:https://host/x.tar", "s3://b/{0..3}.tar", "odd:x*y")),
    ],
)
def test_paths_become_absolute_and_nothing_else_does(
    spec: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").touch()
    monkeypatch.chdir(tmp_path)
    assert absolute_source(spec) == expected.replace("HERE", str(tmp_path))


def test_a_path_without_anything_is_missing(tmp_path: Path) -> None:
    assert is_missing(f"wds:{tmp_path}/absent")
    present = (
        f"wds:{tmp_path}",
        "wds:absent/*.tar",
        "wds:http://host/a",
        "cifar10:absent",
        "absent",
    )
    assert not any(map(is_missing, present))

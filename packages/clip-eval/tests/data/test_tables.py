"""Tables as people have them: what pandas reads is read, and one bad row is one fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from clip_eval.data import DataError, Source, open_source


@pytest.fixture
def folder(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encode((number, 0, 0)))
    return tmp_path


def captions(source: Source) -> list[str]:
    return [source.read(index).captions[0] for index in range(len(source))]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("t.tsv", ["path\ttitle", '0.png\t"the best" cat', "1.png\tcat, dog", '2.png\t5" pipe']),
        ("t.csv", ["path,title", '0.png,"the ""best"", cat"', '1.png,"two\nlines"', "2.png,x"]),
        ("t.csv", ["path;title", "0.png;a,b", "1.png;c"]),
        ("t.csv", ["path,title", "", "0.png,a", "", "1.png,b", ""]),
        ("t.csv", ["path,title", f"0.png,{'word ' * 30_000}end"]),
        ("t.csv", ["\ufeffpath,title", "0.png,é"]),
    ],
)
def test_captions_are_those_that_pandas_reads(folder: Path, name: str, lines: list[str]) -> None:
    (folder / name).write_text("\n".join(lines))
    separator = {"t.tsv": "\t"}.get(name, ";" if ";" in lines[0] else ",")
    theirs = pandas.read_csv(folder / name, sep=separator)["title"].tolist()
    source = open_source(folder / name)
    assert captions(source) == theirs
    assert not source.faults


def test_line_ends_of_all_systems(folder: Path) -> None:
    for end in ("\n", "\r\n", "\r"):
        (folder / "t.csv").write_bytes(f"path,title{end}0.png,a{end}1.png,b{end}".encode())
        assert captions(open_source(folder / "t.csv")) == ["a", "b"]


def test_flickrs_bars_and_its_row_without_one(folder: Path) -> None:
    lines = ["image_name| comment_number| comment"]
    lines += [f"{n // 2}.png| {n % 2}| A dog, number {n} ." for n in range(6)]
    lines += ["3.png| 4   A dog runs across the grass ."]  # as in line 19,999 of the original
    (folder / "results.csv").write_text("\n".join(lines))
    source = open_source(folder / "results.csv")
    assert captions(source) == [f"A dog, number {n} ." for n in range(6)]
    assert [str(fault) for fault in source.faults] == [
        "results.csv, line 8: 2 fields, the header has 3; quote fields that contain the separator"
    ]


def test_a_quote_without_its_partner_takes_no_other_row(folder: Path) -> None:
    lines = ["path\ttitle", '0.png\t"hello', "1.png\ta", '2.png\t"b" c', '3.png\t"d']
    (folder / "t.tsv").write_text("\n".join(lines))
    source = open_source(folder / "t.tsv")
    assert [source.read(n).key for n in range(4)] == [f"{n}.png" for n in range(4)]
    assert captions(source) == ["hello", "a", "b c", "d"]


def test_one_bad_row_is_one_fault_and_many_are_an_error(folder: Path) -> None:
    good = [f"{n % 4}.png,caption {n}" for n in range(200)]
    bad = ["a.png", ",no path", "x,y,z"]
    (folder / "t.csv").write_text("\n".join(["path,title", *good[:100], *bad, *good[100:]]))
    source = open_source(folder / "t.csv")
    assert captions(source) == [f"caption {n}" for n in range(200)]
    assert [(fault.where, fault.reason) for fault in source.faults] == [
        (f"t.csv, line {line}", "bad-row") for line in (102, 104, 103)
    ]
    (folder / "t.csv").write_text("\n".join(["path,title", *good[:2], *bad]))
    with pytest.raises(DataError, match=r"3 of 5 rows cannot be used, such as t\.csv, line 4: 1"):
        open_source(folder / "t.csv")
    (folder / "t.csv").write_text("\n".join(["path,title", *good, *bad * 40]))
    faults = open_source(folder / "t.csv").faults
    assert (len(faults), faults[-1].detail) == (51, "70 more cannot be used")


def test_numbers_beside_captions_need_no_names(folder: Path) -> None:
    (folder / "t.csv").write_text("path,title,label\n0.png,a cat,3\n1.png,a dog,7\n")
    source = open_source(folder / "t.csv")
    assert (source.classnames, captions(source)) == (None, ["a cat", "a dog"])
    assert source.read(0).label is None
    assert source.warnings == (
        "the label numbers are not used, because class names are missing; give a class list to "
        "use them",
    )
    with pytest.raises(DataError, match="label 7 is in no class; the class list has 4"):
        open_source(folder / "t.csv", classnames=list("abcd"))
    (folder / "t.csv").write_text("path,label\n0.png,3\n1.png,7\n")
    with pytest.raises(DataError, match="class names are missing: its labels are numbers"):
        open_source(folder / "t.csv")


def test_a_column_of_labels_may_be_half_empty(folder: Path) -> None:
    (folder / "t.csv").write_text("path,title,class\n0.png,one,cat\n1.png,two,\n2.png,three,dog\n")
    source = open_source(folder / "t.csv")
    assert source.classnames == ("cat", "dog")
    assert [source.read(n).label for n in range(3)] == [0, None, 1]
    assert captions(source) == ["one", "two", "three"]
    (folder / "t.csv").write_text("path,title,class\n0.png,one,\n1.png,two,\n")
    assert open_source(folder / "t.csv").classnames is None


def test_columns_are_named_by_keys(folder: Path) -> None:
    (folder / "t.csv").write_text("pic,alt,kind,class\n0.png,one,cat,x\n1.png,two,dog,x\n")
    source = open_source(folder / "t.csv", image_key="pic", caption_key="alt", label_key="kind")
    assert (source.classnames, source.read(1).label) == (("cat", "dog"), 1)
    with pytest.raises(DataError, match=r"name it with --image-key \(data\.image_key\)"):
        open_source(folder / "t.csv")
    with pytest.raises(DataError, match="no column 'colour'; its columns are pic, alt, kind"):
        open_source(folder / "t.csv", image_key="pic", label_key="colour")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_directory_that_was_looked_in_is_named(kind: str, folder: Path) -> None:
    table = pandas.DataFrame({"path": ["im/0.png", "im/1.png"], "title": ["a", "b"]})
    path = folder / f"t.{kind}"
    write_table(table, path)
    with pytest.raises(DataError, match=rf"none of 2 images .* is in {folder}, such as im/0\.png"):
        open_source(path)
    (folder / "im").mkdir()
    (folder / "1.png").rename(folder / "im" / "1.png")
    assert len(open_source(path)) == 2  # one is there
    (folder / "sub").mkdir()
    (folder / "im").rename(folder / "sub" / "im")
    assert open_source(path, image_root=folder / "sub").read(1).captions == ("b",)


def write_table(table: pandas.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        pytest.importorskip("pyarrow")
        table.to_parquet(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_column_tells_the_split(kind: str, folder: Path) -> None:
    table = pandas.DataFrame(
        {
            "path": [f"{n}.png" for n in (0, 1, 2, 3, 0)],
            "title": list("abcde"),
            "split": ["train", "test", "val", "train", "restval"],
        }
    )
    path = folder / f"t.{kind}"
    write_table(table, path)
    for options, expected in (
        ({"default_split": "train"}, "ad"),
        ({}, "b"),
        ({"split": "val"}, "c"),
        ({"split": "train+restval"}, "ade"),
    ):
        source = open_source(path, **options)  # type: ignore[arg-type]
        assert "".join(captions(source)) == expected
        assert source.splits == ("restval", "test", "train", "val")
    assert open_source(path).split == "test"
    with pytest.raises(DataError, match="no split 'dev2'; there are restval, test, train, val"):
        open_source(path, split="dev2")


def test_parquet_reads_names_lists_and_the_split_of_rows_with_images(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = 7
    table = {
        "image": [{"bytes": encode((n, 0, 0)), "path": None} for n in range(rows)],
        "label": ["cat", "dog", "cat", "bird", "dog", "cat", "dog"],
        "split": ["train", "val", "train", "train", "val", "train", "train"],
    }
    parquet.write_table(arrow.table(table), tmp_path / "TEST-0.parquet", row_group_size=2)
    source = open_source(tmp_path / "TEST-0.parquet", default_split="train")
    assert (len(source), source.split, source.shard_sizes) == (5, "train", (1, 2, 1, 1))
    assert source.classnames == ("bird", "cat", "dog")
    assert [source.read(n).label for n in range(5)] == [1, 1, 0, 1, 2]
    assert source.place(2) == "TEST-0.parquet, row group 1, row 1"
    with pytest.raises(IndexError):
        source.read(5)
    with pytest.raises(DataError, match=r"labels do not match the class list.*'bird'"):
        open_source(tmp_path / "TEST-0.parquet", classnames=["cat", "dog"])
    del table["split"]
    table["labels"] = [[0], [0, 2], [], [1], [2], [0], [1, 2]]  # type: ignore[list-item]
    del table["label"]
    parquet.write_table(arrow.table(table), tmp_path / "b.parquet")
    several = open_source(tmp_path / "b.parquet", classnames=["x", "y", "z"])
    assert [several.read(n).targets for n in (1, 2, 3)] == [(0, 2), (), (1,)]


def test_json_lines_and_lists(folder: Path) -> None:
    rows: list[object] = [
        {"image": "0.png", "captions": ["a", " b ", None, ""]},
        {"image": "1.png", "captions": None},
        "no object",
        {"image": None, "captions": ["c"]},
        {"image": "2.png", "captions": "d", "more": {"x": 1}},
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{cut\n")
    (folder / "t.json").write_text(json.dumps(rows))
    for spec, faults in ((f"{folder}/t.jsonl", 3), (f"jsonl:{folder}/t.json", 2)):
        source = open_source(spec)
        assert [source.read(n).captions for n in range(3)] == [("a", "b"), (), ("d",)]
        assert len(source.faults) == faults
    with pytest.raises(DataError, match=r"a list of objects; read it as jsonl:.*t\.json"):
        open_source(folder / "t.json")
    (folder / "t.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="one JSON object a line, or a list of them"):
        open_source(folder / "t.jsonl")


def test_cocos_null_captions_and_byte_order_mark(folder: Path) -> None:
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(2)],
        "annotations": [
            {"image_id": 0, "caption": "one"},
            {"image_id": 1, "caption": None},
            {"image_id": 1, "caption": "two"},
        ],
    }
    (folder / "c.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    source = open_source(folder / "c.json")
    assert captions(source) == ["one", "two"]
    assert [fault.detail for fault in source.faults] == [
        "annotation 1: its caption is None, not a text, and is left out"
    ]

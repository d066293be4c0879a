from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clip_eval import EvaluationConfig, evaluate
from clip_eval.data import BadSample, DataError, Source, open_source
from clip_eval.data.readers.csv_table import CsvTable


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def table(color_folder: Path) -> Path:
    rows = [f"{p.parent.name}/{p.name},{p.parent.name}" for p in sorted(color_folder.glob("*/*"))]
    return write(color_folder / "all.csv", "path,label", *rows)


def test_class_names_as_labels(table: Path) -> None:
    source = open_source(table)
    assert isinstance(source, CsvTable)
    assert isinstance(source, Source)
    assert (source.name, len(source), source.classnames) == ("all", 12, ("blue", "green", "red"))
    sample = pickle.loads(pickle.dumps(source)).read(11)
    assert (sample.key, sample.label) == ("red/3.png", 2)
    assert sample.captions == ("a photo of a red.",)
    listed = open_source(f"csv:{table}", classnames=["red", "blue", "green"])
    assert listed.read(11).label == 0


def test_the_number_equals_that_of_the_folder(
    table: Path,
    color_folder: Path,
    color_model: Any,
    color_tokenizer: Any,
    color_preprocess: Any,
) -> None:
    parts = {"tokenizer": color_tokenizer, "preprocess": color_preprocess}
    config = EvaluationConfig(templates=["{c}"], keep_predictions=True)
    rows, folder = (
        evaluate(color_model, open_source(path), config=config, **parts)
        for path in (table, f"imagefolder:{color_folder}")
    )
    assert rows.metrics == folder.metrics
    assert rows.predictions == folder.predictions


def test_numbers_as_labels_need_a_class_list(table: Path) -> None:
    write(table, "filepath\tcls", "red/0.png\t1", "blue/0.png\t0")
    with pytest.raises(DataError, match="a class list is needed"):
        open_source(table)
    source = open_source(table, classnames=["blue", "red"])
    assert [source.read(n).label for n in range(2)] == [1, 0]
    with pytest.raises(DataError, match="label 1 is in no class"):
        open_source(table, classnames=["blue"])
    digits = open_source(table, classnames=["1", "0"])  # names that are numbers go by name
    assert [digits.read(n).label for n in range(2)] == [0, 1]


def test_numbers_in_other_forms(table: Path) -> None:
    def labels(*values: str, names: list[str] | None = None) -> list[int | None]:
        write(table, "path,label", *(f"red/{n}.png,{value}" for n, value in enumerate(values)))
        source = open_source(table, classnames=names)
        return [source.label(n) for n in range(len(source))]

    assert labels("1.0", "0.0", names=["x", "y"]) == [1, 0]
    assert labels("1.0", "1.5") == [0, 1]  # two class names
    assert labels("-1", "1", names=["1", "-1"]) == [1, 0]
    with pytest.raises(DataError, match="a class list is needed"):
        labels("1.0", "0.0")
    with pytest.raises(DataError, match="a class list is needed"):
        labels("-1", "0")
    with pytest.raises(DataError, match="label -1 is in no class"):
        labels("-1", "0", names=["x", "y"])
    with pytest.raises(DataError, match="labels do not match the class list"):
        labels("²", "1", names=["x", "y"])
    assert labels("1.0", "", "0", names=["x", "y"]) == [1, 0]  # and one fault
    with pytest.raises(DataError, match=r"2 of 3 rows cannot be used, such as .*line 3: no label"):
        labels("1.0", "", "", names=["x", "y"])


def test_captions_with_separators_and_quotes(table: Path) -> None:
    write(
        table,
        "Title,FilePath",
        '"a red, ""bright"" thing",red/0.png',
        ",blue/0.png",
        '"two\nlines\u2028",red/1.png',
    )
    source = open_source(table)
    assert source.classnames is None
    assert source.read(0).captions == ('a red, "bright" thing',)
    assert (source.read(1).captions, source.read(1).label) == ((), None)
    assert source.read(2).captions == ("two\nlines",)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,label"], "at least one row"),
        (["picture,label", "a,b"], "expected a column of image paths"),
        (["path,width", "a,3"], "expected a column of captions"),
        (["path,caption", "a.png,one, two"], "line 2: 3 fields, the header has 2"),
        (["path,caption", "a.png"], "line 2: 1 fields, the header has 2"),
        (["path,caption", "a.png,x"], "none of 1 images .* is in .*, such as a.png; name the"),
    ],
)
def test_bad_tables_say_what_is_expected(table: Path, lines: list[str], words: str) -> None:
    write(table, *lines)
    with pytest.raises(DataError, match=words):
        open_source(table)


def test_labels_outside_the_list_and_missing_files(table: Path) -> None:
    with pytest.raises(DataError, match=r"'green'.*'grene'"):
        open_source(table, classnames=["red", "blue", "grene"])
    with pytest.raises(DataError, match="no such file"):
        open_source(table.parent / "absent.csv")
    with pytest.raises(DataError, match="no splits"):
        open_source(table, split="val")
    source = open_source(table)
    (table.parent / "blue" / "0.png").unlink()
    with pytest.raises(BadSample, match=r"blue/0\.png: unreadable"):
        source.read(0)


def test_columns_and_the_directory_of_images_may_be_given(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(encode((1, 2, 3)))
    (tmp_path / "t.tsv").write_text("img\talt\tcaption\n1.png\ta cat\tno\n")
    spec = f"csv:{tmp_path}/t.tsv"
    source = open_source(spec, image_key="img", caption_key="alt", image_root=tmp_path / "photos")
    assert source.read(0).captions == ("a cat",)
    with pytest.raises(DataError, match="no column 'pic'; its columns are img, alt, caption"):
        open_source(spec, image_key="pic")

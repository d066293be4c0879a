"""Labels against the class list, in every format: a number outside it is an error everywhere."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clip_eval.cli.main import main
from clip_eval.data import BadSample, DataError, Source, open_source
from clip_eval.data.labels import label_of, spread
from tfrecord.writer import TFRecordWriter

NAMES = ["red", "green", "blue"]
Make = Callable[[Path, list[int], bytes], str]


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def make_shards(root: Path, labels: list[int], image: bytes) -> str:
    with tarfile.open(root / "0.tar", "w") as tar:
        for number, label in enumerate(labels):
            add_file(tar, f"{number:04d}.png", image)
            add_file(tar, f"{number:04d}.cls", str(label).encode())
            add_file(tar, f"{number:04d}.txt", b"a caption, so that the label is not needed")
    return f"wds:{root}/0.tar"


def make_json_shards(root: Path, labels: list[int], image: bytes) -> str:
    with tarfile.open(root / "0.tar", "w") as tar:
        for number, label in enumerate(labels):
            add_file(tar, f"{number:04d}.png", image)
            add_file(tar, f"{number:04d}.json", json.dumps({"label": label}).encode())
    return f"wds:{root}/0.tar"


def make_records(root: Path, labels: list[int], image: bytes, key: str = "label") -> str:
    writer = TFRecordWriter(str(root / "a.tfrecord"))
    for label in labels:
        writer.write({"image/encoded": (image, "byte"), key: (label, "int")})
    writer.close()
    return f"tfrecord:{root}/a.tfrecord"


def make_csv(root: Path, labels: list[int], image: bytes) -> str:
    (root / "a.png").write_bytes(image)
    lines = [f"a.png,{label},a caption" for label in labels]
    (root / "t.csv").write_text("\n".join(["path,label,caption", *lines]))
    return f"csv:{root}/t.csv"


def make_jsonl(root: Path, labels: list[int], image: bytes) -> str:
    (root / "a.png").write_bytes(image)
    rows = [json.dumps({"path": "a.png", "label": label}) for label in labels]
    (root / "t.jsonl").write_text("\n".join(rows))
    return f"jsonl:{root}/t.jsonl"


def make_parquet(root: Path, labels: list[int], image: bytes) -> str:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"image": [image] * len(labels), "label": labels})
    parquet.write_table(table, root / "t.parquet")
    return f"parquet:{root}/t.parquet"


FORMATS: list[Make] = [
    *(make_shards, make_json_shards, make_records, make_csv, make_jsonl, make_parquet),
]


def labels_of(source: Source) -> list[int | None]:
    return [source.read(index).label for index in range(len(source))]


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("labels", [[1, 2, 3], [0, 1, 7], [0, -1]])
def test_a_label_outside_the_list_is_an_error(
    make: Make, labels: list[int], tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    spec = make(tmp_path, labels, encode((1, 2, 3)))
    with pytest.raises(DataError, match=r"label (3|7|-1) is in no class; the class list has 3"):
        open_source(spec, classnames=NAMES).check_labels()


@pytest.mark.parametrize("make", FORMATS)
def test_labels_may_count_from_one_by_a_key(
    make: Make, tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    spec = make(tmp_path, [3, 1, 2], encode((1, 2, 3)))
    source = open_source(spec, classnames=NAMES, first_label=1)
    source.check_labels()
    assert labels_of(source) == [2, 0, 1]
    again = make(tmp_path, [0, 1], encode((1, 2, 3)))
    assert labels_of(open_source(again, classnames=NAMES)) == [0, 1]
    with pytest.raises(DataError, match=r"label 0 is in no class; .* for labels 1 to 3"):
        open_source(again, classnames=NAMES, first_label=1).check_labels()


@pytest.mark.parametrize(
    ("labels", "expected", "is_shifted"),
    [([1, 3, 2, 1], [0, 2, 1, 0], True), ([0, 1, 2], [0, 1, 2], False), ([0, 1], [0, 1], False)],
)
def test_tf_slims_labels_count_as_the_data_say(
    labels: list[int],
    expected: list[int],
    is_shifted: bool,
    tmp_path: Path,
    encode: Callable[..., bytes],
) -> None:
    spec = make_records(tmp_path, labels, encode((1, 2, 3)), "image/class/label")
    source = open_source(spec, classnames=NAMES)
    assert labels_of(source) == expected
    said = "labels in image/class/label count from 1 (no 0 was found, and 3 was, of 3 classes)"
    assert any(warning.startswith(said) for warning in source.warnings) == is_shifted


def test_tf_slims_labels_are_not_guessed(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    spec = make_records(tmp_path, [1, 2, 1], encode((1, 2, 3)), "image/class/label")
    with pytest.raises(DataError, match="neither 0 nor 3 occurs to tell; say which with --first"):
        open_source(spec, classnames=NAMES)
    assert labels_of(open_source(spec, classnames=NAMES, first_label=1)) == [0, 1, 0]
    assert labels_of(open_source(spec, classnames=NAMES, first_label=0)) == [1, 2, 1]
    both = make_records(tmp_path, [0, 1, 3], encode((1, 2, 3)), "image/class/label")
    with pytest.raises(DataError, match=r"label (0|3) is in no class"):
        open_source(both, classnames=NAMES).check_labels()


@pytest.mark.parametrize("make", [make_shards, make_records])
def test_an_evaluation_ends_without_a_number(
    make: Make,
    tmp_path: Path,
    trained_directory: Path,
    encode: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = make(tmp_path, [1, 2, 3], encode((1, 2, 3)))
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    words = ("--data", spec, "--out", str(tmp_path / "out"), "--classnames")
    run = ["run", "--model", str(trained_directory), *words, str(tmp_path / "names.txt")]
    run += ["--no-cache", "--quiet", "--templates", "cifar10"]
    assert main(run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "label 3 is in no class; the class list has 3, for labels 0 to 2" in line
    assert not (tmp_path / "out" / "result.json").exists()
    assert main([*run, "--first-label", "1"]) == 0
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (record["n"], record["n_skipped"]) == (3, 0)
    assert record["settings"]["data_options"] == {"first_label": 1}


def array(values: list[float], kind: type = int) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(values, kind))
    return out.getvalue()


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        (array([1, 2, 0]), "expected a mark of 0 or 1 for each class, got 2; write class numbers"),
        (array([1, -1, 0]), "got -1"),
        (array([0.5, 1, 0], float), "got 0.5"),
        (array([7, 4]), "got 4, 7"),
        (array([0, 1]), "expected a mark for each of the 3 classes, got 2"),
        (array([float("nan"), 0, 1], float), "got nan"),
    ],
)
def test_marks_are_neither_numbers_nor_anything_else(
    marks: bytes, words: str, tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    path = write_tar(tmp_path / "a.tar", {"0.jpg": b"i", "0.npy": marks})
    with pytest.raises(DataError, match=words):
        open_source(path, classnames=NAMES).read(0)


def test_several_classes_of_an_image(
    tmp_path: Path, write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    image = encode((1, 2, 3))
    files = {
        **{"0.png": image, "0.npy": array([1, 0, 1], bool)},
        **{"1.png": image, "1.json": b'{"labels": [2, "green"]}'},
        **{"2.png": image, "2.json": b'{"labels": []}'},
        **{"3.png": image, "3.cls": b"blue"},
        **{"4.png": image, "4.json": b'{"tags": ["red"], "labels": [1]}'},
    }
    path = write_tar(tmp_path / "a.tar", files)
    source = open_source(path, classnames=NAMES)
    found = [(sample.label, sample.targets) for sample in map(source.read, range(5))]
    assert found == [(None, (0, 2)), (None, (1, 2)), (None, ()), (2, None), (None, (1,))]
    keyed = open_source(path, classnames=NAMES, label_key="tags").read(4)
    assert (keyed.label, keyed.targets) == (None, (0,))
    (tmp_path / "x.png").write_bytes(image)
    (tmp_path / "t.jsonl").write_text('{"path": "x.png", "labels": ["red", "blue"]}')
    (tmp_path / "t.csv").write_text(
        "path,labels\nx.png,red;blue\nx.png,green\nx.png,blue|red|red\n"
    )
    assert open_source(tmp_path / "t.jsonl", classnames=NAMES).read(0).targets == (0, 2)
    table = open_source(tmp_path / "t.csv", classnames=NAMES)
    assert [table.read(n).targets for n in range(3)] == [(0, 2), (1,), (0, 2)]
    assert open_source(tmp_path / "t.csv").classnames == ("blue", "green", "red")


def test_labels_of_all_forms() -> None:
    assert label_of("2.0", NAMES, where="k") == 2
    assert label_of(2.0, NAMES, where="k") == 2
    assert label_of(True, NAMES, where="k") is None
    assert label_of("cat", None, where="k") is None
    assert label_of(5, None, first=1, where="k") == 4
    for value in ("cat", [None], ["cat"], "²"):
        with pytest.raises(BadSample, match="bad-label"):
            label_of(value, NAMES, where="k")
    with pytest.raises(DataError, match="'crane' is the name of several classes"):
        label_of("crane", ["crane", "crane"], where="k")
    assert list(spread(3, 5)) == [0, 1, 2]
    assert list(spread(10, 4)) == [0, 3, 6, 9]
    assert list(spread(10, 1)) == [0]

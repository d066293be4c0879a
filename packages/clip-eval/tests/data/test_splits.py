"""Which split is read: of names alone, and of every format that has splits on disk."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clip_eval.data import DataError, open_source
from clip_eval.data.splits import group_by_split, resolve_split, role_of, split_of_file
from tfrecord.writer import TFRecordWriter

NAMES = ("train", "validation", "test")


@pytest.mark.parametrize(
    ("available", "split", "training", "evaluation"),
    [
        (("train", "test"), "train", "train", "train"),
        (("train", "test", "val"), None, "train", "test"),
        (("train", "val"), None, "train", "val"),
        (("training", "validation"), None, "training", "validation"),
        (("train2017", "val2017"), None, "train2017", "val2017"),
        (("train", "restval", "dev"), None, "train", "dev"),
        (("train", "validation"), "val", "validation", "validation"),
        (("a", "b", "Test"), "test", "Test", "Test"),
        (("dev",), None, "dev", "dev"),
        (("real",), None, "real", "real"),
        (("",), None, "", ""),
        (("", "val"), None, "", "val"),
    ],
)
def test_what_is_asked_for_then_what_is_the_default(
    available: tuple[str, ...], split: str | None, training: str, evaluation: str
) -> None:
    def choose(default_split: str | None) -> str:
        return resolve_split(available, split, default_split=default_split, where="d")

    assert (choose("train"), choose("test"), choose(None)) == (training, evaluation, evaluation)


@pytest.mark.parametrize(
    ("available", "default_split", "names"),
    [
        (("b", "a"), None, "a, b"),
        (("test", "val"), "train", "test, val"),
        (("train", "train2014"), "train", "train, train2014"),
        (("val", "validation", "train"), "test", "train, val, validation"),
        (("", "train"), "test", r"\(no split\), train"),
    ],
)
def test_a_choice_without_a_default_lists_the_splits(
    available: tuple[str, ...], default_split: str | None, names: str
) -> None:
    with pytest.raises(DataError, match=rf"d: several splits \({names}\); name one of them"):
        resolve_split(available, None, default_split=default_split, where="d")


def test_a_split_that_is_not_there() -> None:
    with pytest.raises(DataError, match="d: no split 'c'; there are a, b"):
        resolve_split(("b", "a"), "c", where="d")
    with pytest.raises(DataError, match="d: no split 'test', because its files tell no splits"):
        resolve_split(("",), "test", where="d")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("cifar10-test.tfrecord-00000-of-00001", "test"),
        ("imagenet1k-validation-07.tar", "validation"),
        ("train_07.tar", "train"),
        ("train07.tar", "train"),
        ("val1.tar", "val"),
        ("cc3m-train00012.tar", "train"),
        ("train2017.json", "train2017"),
        ("train1k-00.tar", ""),
        ("train-00000-of-00003-0a1b2c3d.parquet", "train"),
        ("captions_val2014", "val2014"),
        ("coco_captions-restval.tfrecord-00000-of-00002", "restval"),
        ("00007.tar", ""),
        ("contest-latest-000.tar", ""),
        ("00000.tfrecord", ""),
    ],
)
def test_names_of_files_tell_their_split(name: str, split: str) -> None:
    assert split_of_file(name) == split


def test_folders_tell_the_split_of_what_lies_in_them() -> None:
    root = Path("d")
    files = [root / "train" / "0.tar", root / "train" / "a" / "1.tar", root / "val" / "test-0.tar"]
    assert group_by_split(files, root) == {"train": files[:2], "test": files[2:]}
    assert group_by_split([root / "a" / "x.tar"], root) == {"": [root / "a" / "x.tar"]}
    assert [role_of(word) for word in ("dev", "VAL", "trainee", "")] == ["validation"] * 2 + [
        None,
        None,
    ]


Layout = tuple[str, dict[str, str]]
"""What is opened, and a sample's caption or path by split."""


def write_shards(root: Path, write_tar: Callable[..., Path], image: bytes, names: str) -> None:
    for split in NAMES:
        files = {f"{split}.png": image, f"{split}.txt": split.encode()}
        write_tar(root / names.format(split=split), files)


def write_records(path: Path, image: bytes, caption: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = TFRecordWriter(str(path))
    writer.write({"png": (image, "byte"), "caption": (caption.encode(), "byte")})
    writer.close()


def write_parquet(path: Path, image: bytes, caption: str) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table({"image": [image], "caption": [caption]}), path)


def make_layout(kind: str, root: Path, write_tar: Callable[..., Path], image: bytes) -> str:
    """Data with three splits; what to open."""
    root.mkdir(exist_ok=True)
    if kind == "shards in folders":
        write_shards(root, write_tar, image, "{split}/0.tar")
        for split in NAMES:
            (root / split / "nshards.txt").write_text("1")
        return f"wds:{root}"
    if kind.startswith("shards by name"):
        write_shards(root, write_tar, image, "set-{split}-000.tar")
        return f"wds:{root}" if kind.endswith("in a directory") else f"wds:{root}/*.tar"
    if kind == "glob of folders":
        write_shards(root, write_tar, image, "{split}/0.tar")
        return f"wds:{root}/*/*.tar"
    if kind == "image folders":
        for split in NAMES:
            (root / split / split).mkdir(parents=True)  # the class is named like the split
            (root / split / split / "0.png").write_bytes(image)
        return f"imagefolder:{root}"
    if kind == "karpathy":
        rows = [
            {"filename": "0.png", "split": split.replace("validation", "val"),
             "sentences": [{"raw": split}]}
            for split in NAMES
        ]  # fmt: skip
        (root / "0.png").write_bytes(image)
        (root / "k.json").write_text(json.dumps({"images": rows}))
        return f"coco:{root / 'k.json'}"
    formats = {
        "tfds": "set-{split}.tfrecord-00000-of-00001",
        "tfds with versions": "1.0.0/set-{split}.tfrecord-00000-of-00001",
        "numbered records": "{split}-00000-of-00001.tfrecord",
        "records in folders": "{split}/00000.tfrecord",
        "hub": "data/{split}-00000-of-00001.parquet",
        "hub, converted": "default/{split}/0000.parquet",
    }
    write = write_parquet if kind.startswith("hub") else write_records
    for split in NAMES:
        write(root / formats[kind].format(split=split), image, split)
    if kind == "tfds with versions":
        write(root / "0.9.0" / "set-train.tfrecord-00000-of-00001", image, "old")
    return f"{'parquet' if kind.startswith('hub') else 'tfrecord'}:{root}"


LAYOUTS = (
    *("shards in folders", "shards by name in a directory", "shards by name in a glob"),
    *("glob of folders", "image folders", "karpathy", "tfds", "tfds with versions"),
    *("numbered records", "records in folders", "hub", "hub, converted"),
)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_training_reads_train_and_evaluation_test(
    kind: str, tmp_path: Path, write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    spec = make_layout(kind, tmp_path / "set", write_tar, encode((1, 2, 3)))

    def read(split: str | None = None, default_split: str | None = None) -> tuple[str, int]:
        source = open_source(spec, split=split, default_split=default_split)
        assert {name.replace("validation", "val") for name in source.splits} == {
            *("test", "train", "val")
        }
        text = source.read(0).captions[0]
        assert source.split is not None
        assert text.rpartition(" ")[2].strip(".").startswith(source.split)
        assert not source.warnings
        return source.split.replace("validation", "val"), len(source)

    assert read(default_split="train") == ("train", 1)
    assert read() == read(default_split="test") == ("test", 1)
    assert read("validation") == read("val", "train") == ("val", 1)
    with pytest.raises(DataError, match=r"no split 'extra'"):
        read("extra")


def test_an_evaluation_without_a_test_split_reads_the_validation_split(
    color_shards: Path, tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    (color_shards / "test").rename(color_shards / "valid")
    assert open_source(f"wds:{color_shards}").split == "valid"
    for split in ("train", "val"):
        (tmp_path / "f" / split / "cat").mkdir(parents=True)
        (tmp_path / "f" / split / "cat" / f"{split}.png").write_bytes(encode((1, 2, 3)))
    (tmp_path / "f" / "annotations").mkdir()  # is no class
    source = open_source(tmp_path / "f")
    assert (source.split, source.name, source.classnames) == ("val", "f/val", ("cat",))
    assert source.read(0).key == "cat/val.png"
    assert open_source(tmp_path / "f", default_split="train").read(0).key == "cat/train.png"


def test_the_only_split_is_read_with_a_word_about_it(color_shards: Path) -> None:
    source = open_source(f"wds:{color_shards}", default_split="train")
    assert source.split == "test"
    assert source.warnings == ("the only split there is 'test', which is not meant for training",)
    assert not open_source(f"wds:{color_shards}", split="test", default_split="train").warnings


def test_flat_folders_of_splits_are_no_classes(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.png").write_bytes(encode((1, 2, 3)))
    with pytest.raises(DataError, match="test: holds images but no class folders"):
        open_source(tmp_path)
    (tmp_path / "train").rename(tmp_path / "bus")
    (tmp_path / "test").rename(tmp_path / "train")  # a class among others
    assert open_source(tmp_path).classnames == ("bus", "train")


def test_karpathys_splits_can_be_joined(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    (tmp_path / "0.png").write_bytes(encode((1, 1, 1)))
    rows = [
        {"filename": "0.png", "split": split, "sentences": [{"raw": split}]}
        for split in ("train", "restval", "val", "restval", "test")
    ]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": rows}))
    source = open_source(path, default_split="train")
    assert (len(source), source.split, source.name) == (1, "train", "dataset_coco/train")
    assert "'restval' is not read" in source.warnings[0]
    joined = open_source(path, split="train+restval", default_split="train")
    assert [joined.read(i).captions[0] for i in range(3)] == ["train", "restval", "restval"]
    assert (joined.split, joined.warnings) == ("train+restval", ())


def test_the_year_in_cocos_file_names_is_its_split(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    (tmp_path / "0.png").write_bytes(encode((1, 1, 1)))
    path = tmp_path / "captions_val2017.json"
    content = {
        "images": [{"id": 1, "file_name": "0.png"}],
        "annotations": [{"image_id": 1, "caption": "x"}],
    }
    path.write_text(json.dumps(content))
    assert open_source(path, split="val").split == "val2017"
    with pytest.raises(DataError, match="no splits; give the file of the split"):
        open_source(path, split="train")


@pytest.mark.parametrize("kind", ["tar", "tfrecord", "parquet", "glob"])
def test_a_missing_part_is_an_error(
    kind: str, tmp_path: Path, write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    image = encode((1, 2, 3))
    for number in range(3):
        stem = f"train-{number:05d}-of-00003"
        if kind in ("tar", "glob"):
            write_tar(tmp_path / f"{stem}.tar", {"a.png": image, "a.txt": b"x"})
        else:
            write = write_records if kind == "tfrecord" else write_parquet
            write(tmp_path / f"{stem}.{kind}", image, "x")
    spec = f"{kind}:{tmp_path}".replace("tar:", "wds:").replace("glob:", "wds:")
    spec += "/*.tar" * (kind == "glob")
    assert len(open_source(spec, default_split="train")) == 3
    (found,) = tmp_path.glob("train-00001-of-00003.*[a-w]")
    found.unlink()
    with pytest.raises(DataError, match=r"missing shard 00001 of 3 beside .*train-00000-of-00003"):
        open_source(spec, default_split="train")


def test_parts_of_two_sets_are_an_error(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    for total in (1, 2):
        for number in range(total):
            name = f"train-{number:05d}-of-{total:05d}.tfrecord"
            write_records(tmp_path / name, encode((1, 2, 3)), "x")
    with pytest.raises(DataError, match="parts of different sets, of-00001 and of-00002"):
        open_source(f"tfrecord:{tmp_path}", default_split="train")


def test_several_data_sets_are_listed(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    for config in ("a", "b"):
        write_records(tmp_path / config / "1.0.0" / "x.tfrecord", encode((1, 2, 3)), config)
        write_parquet(tmp_path / "p" / config / "x.parquet", encode((1, 2, 3)), config)
    (tmp_path / "p").rename(tmp_path.parent / f"{tmp_path.name}-p")
    with pytest.raises(DataError, match=r"several data sets \(a, b\); name one"):
        open_source(f"tfrecord:{tmp_path}")
    with pytest.raises(DataError, match="Parquet files in several directories"):
        open_source(f"parquet:{tmp_path}-p")
    for version in ("9.0.0", "10.0.0"):
        write_records(tmp_path / "v" / version / "x.tfrecord", encode((1, 2, 3)), version)
    assert open_source(f"tfrecord:{tmp_path}/v").read(0).captions == ("10.0.0",)


def test_corenets_tars_may_lie_in_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "metadata.pkl").write_bytes(b"what was chosen is read: " + b"x")
    with pytest.raises(DataError, match=r"train/metadata\.pkl"):
        open_source(tmp_path, default_split="train")
    with pytest.raises(DataError, match=r"val/metadata\.pkl"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="no split 'test'; there are train, val"):
        open_source(tmp_path, split="test")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the URL that it is served at."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_splits_behind_a_url(
    served: tuple[Path, str], write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    root, url = served
    make_layout("shards in folders", root / "set", write_tar, encode((1, 2, 3)))
    for split, default_split, expected in (
        (None, "train", "train"),
        (None, "test", "test"),
        ("val", "train", "validation"),
    ):
        if split == "val":
            (root / "set" / "test").rename(root / "set" / "gone")
            expected, split = "validation", None
            default_split = "test"
        source = open_source(f"wds:{url}/set", split=split, default_split=default_split)
        assert (source.split, source.read(0).captions) == (expected, (expected,))
        assert expected in source.splits
    named = open_source(f"wds:{url}/set/train/{{0..0}}.tar")
    assert (named.split, named.warnings) == ("train", ())
    assert open_source(f"wds:{url}/set/train").read(0).captions == ("train",)
    (root / "set" / "train").rename(root / "set" / "other")
    source = open_source(f"wds:{url}/set", default_split="train")
    assert "not meant for training" in source.warnings[0]


def test_numbers_of_files_are_no_years(tmp_path: Path) -> None:
    files = [tmp_path / f"{word}{number}.tar" for word in ("train", "val") for number in (0, 1950)]
    groups = group_by_split(files, tmp_path)
    assert {name: sorted(found) for name, found in groups.items()} == {
        "train": sorted(files[:2]),
        "val": sorted(files[2:]),
    }
    years = [tmp_path / name for name in ("train_0.tar", "train2014_0.tar")]
    assert set(group_by_split(years, tmp_path)) == {"train", "train2014"}

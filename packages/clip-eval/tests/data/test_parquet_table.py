from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clip_eval.data import BadSample, DataError, decode_image, open_source
from clip_eval.data.readers.parquet_table import ParquetTable


@pytest.fixture
def images_inside(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """As Hugging Face's datasets write it: structs of bytes and path, class names as metadata."""
    for file in range(2):
        rows = [
            {"bytes": encode((9, 250, 9), "JPEG", number), "path": f"{file}{number}.jpg"}
            for number in range(7)
        ]
        table = pa.table({"image": rows, "label": pa.array([number % 2 for number in range(7)])})
        info = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(table, tmp_path / f"train-0000{file}-of-00002.parquet", row_group_size=3)
    return tmp_path


def test_images_inside_with_class_names(images_inside: Path) -> None:
    source = open_source(images_inside, templates=["a {c}"])
    assert isinstance(source, ParquetTable)
    assert source.classnames == ("cat", "dog")
    assert source.shard_sizes == (3, 3, 1, 3, 3, 1)
    assert source.working_set is not None
    found = [source.read(index) for index in range(14)]
    assert [sample.label for sample in found] == [n % 2 for n in range(7)] * 2
    assert found[8].captions == ("a dog",)
    assert decode_image(found[8].image).getpixel((2, 2))[1] > 200
    assert found[8].key == "train-00001-of-00002.parquet, row group 0, row 1"
    assert pickle.loads(pickle.dumps(source)).read(8) == found[8]


def test_binary_columns_and_lists_of_captions(tmp_path: Path) -> None:
    table = pa.table(
        {
            "key": ["000", "001", "002", "003"],
            "jpg": [b"one", b"two", None, b"four"],
            "caption": [["a ", "b"], [], ["c"], None],
        }
    )
    pq.write_table(table, tmp_path / "00000.parquet")
    source = open_source(tmp_path / "00000.parquet")
    assert [source.read(i).captions for i in (0, 1, 3)] == [("a", "b"), (), ()]
    assert source.read(1).image == b"two"
    assert "(001)" in source.read(1).key
    with pytest.raises(BadSample, match=r"row 2.*no-image"):
        source.read(2)


def test_paths_relative_to_the_file_or_to_a_root(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(encode((1, 2, 3)))
    table = pa.table({"filepath": ["images/x.png", "y.png"], "title": ["an x", "a y"]})
    pq.write_table(table, tmp_path / "t.parquet")
    source = open_source(f"parquet:{tmp_path}/t.parquet")
    assert source.read(0).captions == ("an x",)
    with pytest.raises(BadSample, match="unreadable"):
        source.read(1)
    (tmp_path / "images" / "y.png").write_bytes(encode((1, 2, 3)))
    moved = open_source(tmp_path / "t.parquet", image_root=tmp_path / "images")
    assert moved.read(1).captions == ("a y",)
    assert isinstance(moved, ParquetTable)
    assert moved.shard_sizes is None  # short rows are all kept, so any order will do


def test_row_groups_are_forgotten_when_there_is_no_room(
    images_inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip_eval.data.readers.parquet_table.CACHE_BYTES", 3000)
    source = ParquetTable(images_inside)
    expected = [source.read(i) for i in range(14)]
    for index in (0, 13, 4, 0, 9):
        assert source.read(index) == expected[index]
    assert len(source._rows) < 6
    assert source.working_set == 3


def test_columns_may_be_named_and_missing_ones_are_explained(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"pic": [b"i"], "alt": ["a cat"], "url": ["u"]}), tmp_path / "t.parquet"
    )
    spec = f"parquet:{tmp_path}/t.parquet"
    sample = open_source(spec, image_key="pic", caption_key="alt").read(0)
    assert (sample.image, sample.captions) == (b"i", ("a cat",))
    with pytest.raises(DataError, match=r"columns are pic, alt, url; .*download the images first"):
        open_source(spec)
    with pytest.raises(DataError, match="no column 'x'; its columns are pic"):
        open_source(spec, image_key="x")
    with pytest.raises(DataError, match="a column of captions"):
        open_source(spec, image_key="pic")


def test_broken_and_missing_files(tmp_path: Path, images_inside: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet: no such file"):
        open_source(f"parquet:{tmp_path}/none.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="no Parquet file"):
        open_source(tmp_path / "a.parquet")
    path = images_inside / "train-00001-of-00002.parquet"
    source = ParquetTable(path)
    data = bytearray(path.read_bytes())
    data[4:900] = bytes(896)
    path.write_bytes(data)
    with pytest.raises(BadSample, match="row group 0, row 0: unreadable"):
        source.read(0)


def test_without_pyarrow_it_says_what_to_install(
    images_inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"pip install \"clip-eval\[parquet\]\""):
        ParquetTable(images_inside)

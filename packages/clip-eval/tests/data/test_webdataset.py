from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from clip_eval.data import BadSample, DataError, Source, decode_image, open_source
from clip_eval.data.readers.webdataset import WebDataset
from clip_eval.data.shards import open_files
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator


def test_the_benchmark_layout_is_read(color_shards: Path) -> None:
    source = WebDataset(color_shards)
    assert isinstance(source, Source)
    assert source.name == "wds/test"
    assert source.classnames == ("red", "green", "blue")
    assert source.templates == ("a photo of a {c}.", "the {c} one")
    assert len(source) == 12
    assert not source.faults
    seventh = source.read(7)
    assert (seventh.key, seventh.label) == ("1.tar/s0000007", 1)
    assert seventh.captions == ("a photo of a green.", "the green one")
    assert decode_image(seventh.image).getpixel((3, 3))[1] > 200
    with pytest.raises(IndexError):
        source.read(12)


def test_shards_written_by_webdataset_are_read_alike(tmp_path: Path) -> None:
    pattern = str(tmp_path / "train-%04d.tar")
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
        for number in range(10):
            image = Image.new("RGB", (8, 8), (number, 0, 0))
            writer.write(
                {
                    "__key__": f"k{number:03d}",
                    "png": image,
                    "txt": f"caption {number}\nsecond {number}\n",
                    "json": {"width": 8},
                }
            )
    source = WebDataset(tmp_path / "train-{0000..0002}.tar")
    expected: list[tuple[str, bytes, str]] = []
    for shard in source.shards:
        with open(shard, "rb") as stream:
            members = ({**member, "__url__": ""} for member in tar_file_iterator(stream))
            items = list(group_by_keys(members))
        expected += [(item["__key__"], item["png"], item["txt"].decode()) for item in items]
    found = [source.read(index) for index in range(len(source))]
    assert [sample.key.split("/")[1] for sample in found] == [key for key, _, _ in expected]
    assert [sample.image for sample in found] == [data for _, data, _ in expected]
    assert ["\n".join(s.captions) + "\n" for s in found] == [text for _, _, text in expected]
    assert all(sample.label is None for sample in found)
    assert source.classnames is None


def test_json_gives_captions_and_labels(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        {
            "0.jpg": b"i0",
            "0.json": b'{"caption": "one", "label": 3}',
            "1.jpg": b"i1",
            "1.json": b'{"captions": ["x", " y "], "cls": 1}',
            "2.jpg": b"i2",
            "2.txt": b"from txt",
            "2.json": b'{"caption": "from json"}',
            "3.jpg": b"i3",
            "3.json": b"[1]",
        },
    )
    source = WebDataset(path)
    found = [(s.captions, s.label) for s in map(source.read, range(4))]
    assert found == [(("one",), 3), (("x", "y"), 1), (("from txt",), None), ((), None)]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("0.cls", b"cat", "bad-label"),
        ("0.txt", b"caf\xe9 \xff", "bad-utf8"),
        ("0.json", b"{", "bad-json"),
        ("0.cls", b"9" * 30, "bad-label"),
    ],
)
def test_a_bad_sidecar_is_one_bad_sample(
    tmp_path: Path, write_tar: Callable[..., Path], name: str, content: bytes, reason: str
) -> None:
    path = write_tar(tmp_path / "a.tar", {"0.jpg": b"i", name: content, "1.jpg": b"j"})
    source = WebDataset(path, classnames=["a", "b"])
    with pytest.raises(BadSample) as caught:
        source.read(0)
    assert (caught.value.reason, caught.value.key) == (reason, "a.tar/0")
    assert source.read(1).image == b"j"


def test_hidden_files_folders_and_odd_files_do_not_split_samples(
    tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        {
            "./x.y/0.JPG": b"i0",
            "./x.y/._0.jpg": b"mac",
            "./x.y/0.Txt": b"zero",
            "readme": b"no image",
            "__meta__.json": b"{}",
            "./z/0.webp": b"i1",
            "./z/0.seg.png": b"mask",
        },
    )
    source = WebDataset(path)
    assert [(s.image, s.captions) for s in map(source.read, (0, 2))] == [
        (b"i0", ("zero",)),
        (b"i1", ()),
    ]
    with pytest.raises(BadSample, match=r"a\.tar/readme: no-image"):
        source.read(1)


def test_repeated_keys_stay_two_samples(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for data in (b"one", b"two"):
            info = tarfile.TarInfo("same.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert [WebDataset(path).read(i).image for i in range(2)] == [b"one", b"two"]


def cut(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


def test_a_shard_cut_short_keeps_its_whole_samples(color_shards: Path) -> None:
    before = [WebDataset(color_shards).read(i).image for i in range(9)]
    shard = color_shards / "test" / "1.tar"
    with tarfile.open(shard) as tar:
        label_of_fourth = tar.getmembers()[7]
    cut(shard, label_of_fourth.offset + 100)
    source = WebDataset(color_shards)
    assert len(source) == 6 + 3
    assert [source.read(i).image for i in range(9)] == before
    (fault,) = source.faults
    assert (fault.where, fault.reason) == ("1.tar", "damaged-tar")
    assert "3 samples before it are kept" in fault.detail


def test_only_the_end_mark_missing_keeps_everything(color_shards: Path) -> None:
    shard = color_shards / "test" / "1.tar"
    with tarfile.open(shard) as tar:
        last = tar.getmembers()[-1]
    cut(shard, last.offset_data + 512)
    source = WebDataset(color_shards)
    assert len(source) == 12
    assert "no end-of-archive mark" in source.faults[0].detail


def test_an_empty_shard_is_a_fault_and_only_empty_ones_an_error(color_shards: Path) -> None:
    (color_shards / "test" / "1.tar").write_bytes(b"")
    source = WebDataset(color_shards)
    assert len(source) == 6
    assert source.faults[0].reason == "empty"
    (color_shards / "test" / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match="no sample in its shards"):
        WebDataset(color_shards)


def test_a_compressed_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(DataError, match=r"a\.tar: compressed.*gunzip"):
        WebDataset(path)


def test_given_names_replace_those_on_disk_if_equally_many(color_shards: Path) -> None:
    source = WebDataset(color_shards, classnames=["a", "b", "c"], templates=["x {c}"])
    assert source.read(2).captions == ("x c",)
    with pytest.raises(DataError, match="3 classes, the list given has 2"):
        WebDataset(color_shards, classnames=["a", "b"])


def test_pickles_after_reading_and_forgets_the_oldest_files(
    color_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip_eval.data.shards.open_files.OPEN_FILES", 1)
    source = WebDataset(color_shards)
    before = [source.read(i) for i in (0, 11, 1)]
    again = pickle.loads(pickle.dumps(source))
    assert [again.read(i) for i in (0, 11, 1)] == before
    assert len(open_files._open) == 1


def test_indexing_reads_no_contents(color_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = color_shards / "test" / "0.tar"
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        for member in tar:
            data[member.offset_data : member.offset_data + member.size] = b"?" * member.size
    shard.write_bytes(data)
    assert len(WebDataset(color_shards)) == 12


def test_a_shard_that_changes_underneath_gives_bad_samples(color_shards: Path) -> None:
    source = open_source(f"wds:{color_shards}")
    (color_shards / "test" / "0.tar").write_bytes(b"\x01" * 4096)
    (color_shards / "test" / "1.tar").unlink()
    for index, reason in ((0, "changed"), (6, "unreadable")):
        with pytest.raises(BadSample) as caught:
            source.read(index)
        assert caught.value.reason == reason
        assert "sample 0" in caught.value.key


@pytest.mark.parametrize(
    "names",
    [
        ("0.jpg", "1.jpg", "0.txt", "1.txt"),
        ("a/0.jpg", "b/1.jpg", "b/1.txt", "a/0.txt"),
        ("1.jpg", "1.txt", "0.jpg", "2.jpg", "2.txt", "0.txt"),
    ],
)
def test_a_tar_that_is_not_sorted_says_so_and_how_to_sort_it(
    names: tuple[str, ...], tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    path = write_tar(tmp_path / "a.tar", dict.fromkeys(names, b"x"))
    for _ in range(2):
        with pytest.raises(DataError, match=r"a\.tar: not sorted by name: .*tar --sort=name -cf"):
            open_source(path)

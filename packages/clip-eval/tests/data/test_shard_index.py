from __future__ import annotations

import errno
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from clip_eval.data import BadSample, DataError, open_source
from clip_eval.data.readers.webdataset import WebDataset
from clip_eval.data.shards.shard_index import INDEX_FOLDER


def read_index(path: Path) -> list[int]:
    return [number for (number,) in struct.iter_unpack("<Q", path.read_bytes())]


def samples(count: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for number in range(count):
        files[f"{number:03}.jpg"] = bytes([number]) * (100 * number + 1)
        files[f"{number:03}.txt"] = f"caption {number}".encode()
    return files


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_holds_each_begin_and_the_end(
    tmp_path: Path, write_tar: Callable[..., Path], format: int
) -> None:
    """The layout of megatron-energon, which writes tarfile's offsets in the same way."""
    files = samples(5) | {f"{'long/' * 40}x.jpg": b"i"}
    path = write_tar(tmp_path / "a.tar", files, format)
    assert len(WebDataset(path)) == 6
    with tarfile.open(path) as tar:
        expected = [m.offset for m in tar.getmembers() if m.name.endswith("jpg")]
        assert read_index(tmp_path / "a.tar.idx") == [*expected, tar.offset]


def test_an_index_is_used_and_not_made_again(
    tmp_path: Path, write_tar: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "a.tar", samples(3))
    first = [WebDataset(path).read(index) for index in range(3)]
    monkeypatch.setattr("clip_eval.data.readers.webdataset._find_runs", lambda view: 1 / 0)
    assert [WebDataset(path).read(index) for index in range(3)] == first


def test_an_index_from_elsewhere_is_trusted_if_it_ends_where_the_tar_ends(
    tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    path = write_tar(tmp_path / "a.tar", samples(3))
    WebDataset(path)
    begins = read_index(tmp_path / "a.tar.idx")
    two = b"".join(struct.pack("<Q", begins[number]) for number in (0, 2, 3))
    (tmp_path / "a.tar.idx").write_bytes(two)  # someone left the second sample out
    source = WebDataset(path)
    assert [source.read(index).captions for index in range(2)] == [("caption 0",), ("caption 2",)]


@pytest.mark.parametrize("damage", ["older", "odd length", "empty", "other end"])
def test_a_stale_index_is_made_again(
    tmp_path: Path, write_tar: Callable[..., Path], damage: str
) -> None:
    path = write_tar(tmp_path / "a.tar", samples(2))
    WebDataset(path)
    index = tmp_path / "a.tar.idx"
    if damage == "older":
        write_tar(path, samples(7))
        os.utime(index, ns=(0, 0))
    elif damage == "other end":
        index.write_bytes(struct.pack("<3Q", 0, 512, 1024))
    else:
        index.write_bytes(b"" if damage == "empty" else index.read_bytes() + b"\1")
    source = WebDataset(path)
    assert len(source) == (7 if damage == "older" else 2)
    assert source.read(1).captions == ("caption 1",)


def test_damage_is_reported_each_time(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    path = write_tar(tmp_path / "a.tar", samples(4))
    with tarfile.open(path) as tar:
        cut = tar.getmembers()[6].offset_data + 10
    path.write_bytes(path.read_bytes()[:cut])
    found = [WebDataset(path) for _ in range(3)]
    assert {len(source) for source in found} == {3}
    assert [fault.reason for source in found for fault in source.faults] == ["damaged-tar"] * 3


def test_without_leave_to_write_the_index_goes_to_the_cache(
    tmp_path: Path, write_tar: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_tar(tmp_path / "a.tar", samples(3))
    (tmp_path / "a.tar.idx").mkdir()  # root may write everywhere, but not over a directory
    for _ in range(2):
        source = WebDataset(path)
        assert [source.read(i).captions[0] for i in range(3)] == [f"caption {i}" for i in range(3)]
    (cached,) = (tmp_path / "cache" / "clip-eval" / "index").glob("*.idx")
    assert len(read_index(cached)) == 4


def test_shards_may_be_uneven_and_places_are_named(
    tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    for number, count in enumerate((3, 1, 6)):
        write_tar(tmp_path / f"{number}.tar", samples(count))
    source = open_source(f"wds:{tmp_path}")
    assert isinstance(source, WebDataset)
    assert source.shard_sizes == (3, 1, 6)
    assert source.place(4) == "2.tar, sample 0"
    (tmp_path / "2.tar").unlink()
    with pytest.raises(BadSample, match=r"2\.tar, sample 0: unreadable"):
        source.read(4)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Directories in which nothing can be created."""
    places: list[Path] = []
    plain = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if any(path.is_relative_to(place) for place in places):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return plain(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    return places


def test_the_index_goes_into_the_cache_or_stays_in_memory_and_that_is_said(
    tmp_path: Path,
    write_tar: Callable[..., Path],
    encode: Callable[..., bytes],
    refused: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_tar(tmp_path / "data" / "a.tar", {"0.png": encode((1, 2, 3)), "0.txt": b"x"})
    refused.append(tmp_path / "data")
    source = open_source(path)
    assert source.read(0).captions == ("x",)
    (warning,) = source.warnings
    assert "the indices of 1 shards (a.tar) cannot be written beside them; they are now" in warning
    assert open_source(path).warnings == ()  # they were there already
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.tar"]
    folder = tmp_path / "cache" / "clip-eval" / INDEX_FOLDER
    (index,) = folder.iterdir()
    index.unlink()
    refused.append(tmp_path / "cache")
    source = open_source(path)
    assert "are kept in memory and made again by every run" in source.warnings[0]
    assert source.read(0).captions == ("x",)
    assert pickle.loads(pickle.dumps(source)).read(0).captions == ("x",)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("change", ["shorter", "longer", "replaced", "gone"])
def test_an_index_that_changes_during_a_run_stops_it(
    tmp_path: Path, write_tar: Callable[..., Path], change: str
) -> None:
    """A mapped file that becomes shorter would be a bus error, and a longer one other samples."""
    source = WebDataset(write_tar(tmp_path / "a.tar", samples(5)))
    index = tmp_path / "a.tar.idx"
    content = index.read_bytes()
    if change == "gone":
        index.unlink()
        with pytest.raises(BadSample, match="unreadable: No such file"):
            source.read(0)
        return
    changed = {"shorter": content[:16], "longer": content + content[-8:], "replaced": b""}[change]
    if change == "replaced":
        index.unlink()
    index.write_bytes(changed)
    with pytest.raises(DataError, match=r"a\.tar\.idx: it changed while it was in use"):
        source.read(4)


def test_numbers_of_an_index_that_cannot_be_right_are_bad_samples(
    tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    path = write_tar(tmp_path / "a.tar", samples(4))
    WebDataset(path)
    begins = read_index(tmp_path / "a.tar.idx")
    for wrong in (2**64 - 1, 2**63, 0):
        numbers = [*begins[:2], wrong, *begins[3:]]
        (tmp_path / "a.tar.idx").write_bytes(struct.pack("<5Q", *numbers))
        source = WebDataset(path)
        assert source.read(0).captions == ("caption 0",)
        with pytest.raises(BadSample) as caught:
            source.read(1 if wrong == 0 else 2)
        assert caught.value.reason in ("bad-index", "changed")


def test_an_index_of_more_samples_than_the_shard_can_hold_is_made_again(
    tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    path = write_tar(tmp_path / "a.tar", samples(3))
    WebDataset(path)
    index = tmp_path / "a.tar.idx"
    end = index.read_bytes()[-8:]
    with index.open("wb") as file:
        file.truncate(400 * 2**30)
        file.seek(0, os.SEEK_END)
        file.write(end)
    assert len(WebDataset(path)) == 3
    assert index.stat().st_size == 32


def test_blocks_of_an_index_meet(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{n:05}.jpg": b"%d" % n for n in range(9000)})
    source = WebDataset(path)
    for number in (0, 4094, 4095, 4096, 4097, 8191, 8192, 8999):
        assert source.read(number).image == b"%d" % number

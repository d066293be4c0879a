from __future__ import annotations

import base64
import gzip
import io
import os
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path

import pytest
from clip_eval.data import BadSample, DataError, open_source
from clip_eval.data.readers.corenet_tars import CoreNetTars
from clip_eval.data.readers.restricted_pickle import UnsafePickle, load_plain
from clip_eval.data.shards.cache import ShardCache


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("/tmp/a-hostile-pickle-ran",)


def record(number: int) -> object:
    image = base64.b64encode(f"image {number}".encode())
    if number == 4:
        return {"image": image, "text": "x", "texts": ["one", "two "]}
    return {"image": image, "text": f"caption {number}"}


def write_tar(path: Path, number: int, records: dict[int, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        folder = tarfile.TarInfo(str(number))
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for index, data in records.items():
            info = tarfile.TarInfo(f"{number}/{index}.pkl")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def corenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "set"
    root.mkdir()
    for number in range(2):
        indices = range(3 * number, 3 * number + 3)
        data = {i: pickle.dumps(record(i), protocol=2 + i % 4) for i in indices}
        write_tar(root / f"{number}.tar.gz", number, data)
    metadata = {"total_tar_files": 2, "max_files_per_tar": 3, "tar_file_names": ["a", "b"]}
    (root / "metadata.pkl").write_bytes(pickle.dumps(metadata))
    return root


def test_samples_of_every_pickle_protocol(corenet: Path) -> None:
    source = open_source(corenet)
    assert isinstance(source, CoreNetTars)
    assert source.shard_sizes == (3, 3)
    found = [source.read(index) for index in range(6)]
    assert [sample.image for sample in found] == [f"image {i}".encode() for i in range(6)]
    assert found[4].captions == ("one", "two")
    assert found[5].captions == ("caption 5",)
    assert found[5].key == "1.tar.gz/1/5.pkl"
    assert pickle.loads(pickle.dumps(source)).read(5) == found[5]


def test_each_tar_is_decompressed_once_within_the_bound(corenet: Path, tmp_path: Path) -> None:
    size = len(gzip.decompress((corenet / "0.tar.gz").read_bytes()))
    source = CoreNetTars(corenet, cache=ShardCache(tmp_path / "small", max_bytes=size))
    for index in (0, 5, 1, 4):
        source._index._files.close()
        assert source.read(index).image == f"image {index}".encode()
        assert len(list((tmp_path / "small").glob("*.tar"))) == 1


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_does_not_run(corenet: Path, protocol: int) -> None:
    evil = {"image": Hostile(), "text": "x"}
    data = {0: pickle.dumps(evil, protocol), 1: pickle.dumps(record(1))}
    write_tar(corenet / "0.tar.gz", 0, data)
    source = open_source(f"corenet:{corenet}")
    with pytest.raises(BadSample, match=r"unsafe-pickle: it asks for posix\.mkdir"):
        source.read(0)
    assert source.read(1).image == b"image 1"
    (corenet / "metadata.pkl").write_bytes(pickle.dumps(Hostile(), protocol))
    with pytest.raises(DataError, match=r"it asks for posix\.mkdir"):
        open_source(f"corenet:{corenet}")
    assert not Path("/tmp/a-hostile-pickle-ran").exists()


@pytest.mark.parametrize(
    "value",
    [OrderedDict(a=1), Path("x"), {1, 2}, complex(1, 2), bytearray(b"x"), os.system, UnsafePickle],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_only_plain_values_are_admitted(value: object, protocol: int) -> None:
    plain = {"a": [1, 2.5, None, True, ("x", b"\x00\xff")], "é": 2**80}
    assert load_plain(pickle.dumps(plain, protocol)) == plain
    if isinstance(value, set) and protocol == 5:
        assert load_plain(pickle.dumps(value, protocol)) == value  # spelled without any name
    elif isinstance(value, bytearray) and protocol == 5:
        assert load_plain(pickle.dumps(value, protocol)) == value
    else:
        with pytest.raises(UnsafePickle, match="it asks for"):
            load_plain(pickle.dumps(value, protocol))


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"c_codecs\nencode\n(Vx\nVrot13\ntR.", b"Pid\n.", b"\x80\x05K\x01Q."]
)
def test_damage_and_tricks_are_refused(data: bytes) -> None:
    with pytest.raises(UnsafePickle):
        load_plain(data)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1], "bad-record"),
        ({"text": "x"}, "bad-record"),
        ({"image": b"no base64!", "text": "x"}, "bad-record"),
        ({"image": b"", "text": 5}, "bad-record"),
    ],
)
def test_records_of_another_layout_are_named(corenet: Path, value: object, reason: str) -> None:
    write_tar(corenet / "0.tar.gz", 0, {0: pickle.dumps(value)})
    with pytest.raises(BadSample) as caught:
        open_source(corenet).read(0)
    assert (caught.value.reason, caught.value.key) == (reason, "0.tar.gz/0/0.pkl")


def test_a_tar_cut_in_the_middle_is_used_as_far_as_it_goes(corenet: Path) -> None:
    path = corenet / "1.tar.gz"
    noise = {i: pickle.dumps({"image": base64.b64encode(os.urandom(9000))}) for i in range(9)}
    write_tar(path, 1, noise)
    path.write_bytes(path.read_bytes()[:-40_000])
    for _ in range(2):  # the second time from the index alone
        source = open_source(corenet)
        assert 3 < len(source) < 12
        assert [(f.where, f.reason) for f in source.faults] == [("1.tar.gz", "damaged-tar")]


def test_missing_tars_and_metadata(corenet: Path) -> None:
    (corenet / "1.tar.gz").unlink()
    with pytest.raises(DataError, match=r"missing shard .*1\.tar\.gz, of the 2"):
        open_source(corenet)
    (corenet / "metadata.pkl").write_bytes(pickle.dumps({"total_tar_files": "two"}))
    with pytest.raises(DataError, match="total_tar_files of 1 or more"):
        open_source(corenet)
    (corenet / "metadata.pkl").unlink()
    with pytest.raises(DataError, match=r"metadata\.pkl: cannot be read"):
        open_source(f"corenet:{corenet}")

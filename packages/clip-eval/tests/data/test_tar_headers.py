from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from clip_eval.data.shards.tar_headers import BLOCK, Member, TarDamage, iter_members

FILES = {
    "0001.jpg": b"x" * 700,
    "folder/0001.txt": b"",
    "ünï/" + "long" * 40 + "/" + "name" * 50 + ".jpg": b"y" * 512,
    "last.cls": b"7",
}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_tarfile_finds(
    tmp_path: Path, write_tar: Callable[..., Path], format: int
) -> None:
    files = dict(FILES)
    if format == tarfile.USTAR_FORMAT:
        files = {name: data for name, data in files.items() if len(name) < 90}
        files["d" * 120 + "/" + "split.jpg"] = b"prefix field"
    path = write_tar(tmp_path / "a.tar", files, format=format)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    found = list(iter_members(data))
    assert [(m.name, m.offset, m.size) for m in found] == expected
    assert {m.name: data[m.offset : m.offset + m.size] for m in found} == files


def test_folders_and_links_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("s", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "f.txt"
            tar.addfile(info)
        info = tarfile.TarInfo("f.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    assert [m.name for m in iter_members(path.read_bytes())] == ["f.txt"]


def test_a_stretch_can_be_read_by_itself(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    data = write_tar(tmp_path / "a.tar", FILES, format=tarfile.PAX_FORMAT).read_bytes()
    for member in iter_members(data):
        stretch = data[member.start : member.end]
        (again,) = iter_members(stretch, whole=False)
        assert again.name == member.name
        assert stretch[again.offset : again.offset + again.size] == FILES[member.name]


def test_size_beyond_octal() -> None:
    info = tarfile.TarInfo("big.bin")
    info.size = 9 * 2**30
    with pytest.raises(TarDamage, match=r"cut in the middle of 'big\.bin'"):
        list(iter_members(info.tobuf(tarfile.GNU_FORMAT)))


@pytest.mark.parametrize("keep", [1, 300, 512, 700, 1400, 1600])
def test_a_cut_is_reported_after_what_is_whole(
    tmp_path: Path, write_tar: Callable[..., Path], keep: int
) -> None:
    data = write_tar(tmp_path / "a.tar", {"a": b"1" * 100, "b": b"2" * 100}).read_bytes()[:keep]
    found: list[Member] = []

    with pytest.raises(TarDamage) as caught:
        found.extend(iter_members(data))
    assert len(found) == (keep >= 512 + 100) + (keep >= 3 * BLOCK + 100)
    assert caught.value.offset <= keep


def test_garbage_is_not_a_tar() -> None:
    with pytest.raises(TarDamage, match="not a tar header at byte 0"):
        list(iter_members(b"\x01garbage" * 200))


def test_a_flipped_bit_in_a_header_is_noticed(
    tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    data = bytearray(write_tar(tmp_path / "a.tar", {"a": b"1", "b": b"2"}).read_bytes())
    data[2 * BLOCK] ^= 1
    members = iter_members(bytes(data))
    assert next(members).name == "a"
    with pytest.raises(TarDamage, match="not a tar header at byte 1024"):
        next(members)

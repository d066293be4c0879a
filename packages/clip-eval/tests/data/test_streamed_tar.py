"""Tars read from begin to end give what webdataset and reading by position give, within bounds."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import IO

import pytest
from clip_eval.data import BadSample, DataError, StreamedFiles, stream_tar
from clip_eval.data.faults import MachineError
from clip_eval.data.readers.webdataset import WebDataset
from webdataset.tariterators import group_by_keys, tar_file_iterator

FILES = {
    "a/0.jpg": b"image 0",
    "a/0.TXT": b"caption 0",
    "a/1.jpg": b"",
    "a/1.txt": b"x" * 5000,
    ".2.jpg": b"hidden",
    "2.seg.png": b"mask",
    "2.png": b"image 2",
}


def tar_of(files: dict[str, bytes], *, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        tar.addfile(_directory("folder"))
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def with_size(tar: bytes, name: bytes, size: bytes) -> bytes:
    """The tar with another size in a member's header, and the right checksum."""
    data, start = bytearray(tar), tar.index(name + b"\0")
    data[start + 124 : start + 136] = size
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


def read(path: Path | str) -> tuple[list[tuple[str, dict[str, bytes]]], list[str]]:
    """The samples of a tar, and its faults as reason and detail."""
    found = list(stream_tar(str(path)))
    samples = [item for item in found if isinstance(item, StreamedFiles)]
    faults = [f"{item.reason}: {item.detail}" for item in found if isinstance(item, BadSample)]
    return [(key, parts) for key, parts in samples], faults


@pytest.fixture
def served() -> Iterator[Callable[[bytes], str]]:
    """From content to a URL of it."""
    contents: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(contents[-1])

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()

    def serve(content: bytes) -> str:
        contents.append(content)
        return f"http://127.0.0.1:{server.server_port}/a.tar"

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_samples_are_those_of_webdataset(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(pack(tar_of(FILES)))
    with open(path, "rb") as stream:
        members = ({**member, "__url__": ""} for member in tar_file_iterator(stream))
        theirs = list(group_by_keys(members))
    expected = [
        (f"a.tar/{item['__key__']}", {k: v for k, v in item.items() if not k.startswith("__")})
        for item in theirs
    ]
    assert read(path) == (expected, [])
    assert len(expected) == 3


def test_samples_are_those_of_reading_by_position(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(FILES, format=tarfile.GNU_FORMAT))
    source = WebDataset(tmp_path / "a.tar")
    samples, _ = read(tmp_path / "a.tar")
    assert [source.read(index).key for index in range(2)] == [key for key, _ in samples[:2]]
    assert [source.read(index).image for index in range(2)] == [b"image 0", b""]


def test_a_url_is_read_like_a_file(tmp_path: Path, served: Callable[[bytes], str]) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(FILES))
    expected = read(tmp_path / "a.tar")
    assert read((tmp_path / "a.tar").as_uri()) == expected
    assert read(served(tar_of(FILES))) == expected
    assert read(served(gzip.compress(tar_of(FILES)))) == expected
    assert read("http://127.0.0.1:9/a.tar")[1][0].startswith("damaged-tar: ")


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        (b"-0000000001\0", "not a tar header"),
        (b"\x80" + b"\xff" * 11, "cut in the middle"),
        (b"777777777777", "no end-of-archive"),
        (b"\x80\0\0\0" + (2**63).to_bytes(8, "big"), "cut in the middle"),
        (b"00000077777\0", "cut in the middle"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_absurd_sizes_are_faults_and_the_samples_before_are_used(
    tmp_path: Path, size: bytes, fault: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(pack(with_size(tar_of(FILES), b"a/1.jpg", size)))
    samples, faults = read(path)
    assert [key for key, _ in samples] == ["a.tar/a/0"]
    assert any(fault in line for line in faults)


def test_a_large_sample_is_a_fault_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Callable[[bytes], str]
) -> None:
    monkeypatch.setenv("CLIP_EVAL_MAX_SAMPLE_MB", "1")
    half = bytes(600_000)
    tar = tar_of({"0.jpg": half, "0.txt": half, "1.jpg": half, "2.jpg": bytes(2**20 + 1)})
    (tmp_path / "a.tar").write_bytes(tar)
    for location in (str(tmp_path / "a.tar"), served(tar)):
        samples, faults = read(location)
        assert [key for key, _ in samples] == ["a.tar/1"]
        assert [line.partition(",")[0] for line in faults] == ["too-large: 1", "too-large: 1"]
        assert all("CLIP_EVAL_MAX_SAMPLE_MB=1 allows no more" in line for line in faults)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_what_a_compressed_tar_unpacks_to_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setenv("CLIP_EVAL_MAX_SAMPLE_MB", "1")
    hidden, folders = {"__x": bytes(2 * 2**20)}, tarfile.BLOCKSIZE * 2100
    bomb = tar_of({"0.jpg": b"x"})[:1536] + _directory("d").tobuf() * (folders // 512)
    for content in (tar_of({"0.jpg": b"x", **hidden, "1.jpg": b"y"}), bomb):
        (tmp_path / "a.tar").write_bytes(pack(content))
        samples, faults = read(tmp_path / "a.tar")
        assert [key for key, _ in samples] == ["a.tar/0"]
        assert "more that belongs to no sample than CLIP_EVAL_MAX_SAMPLE_MB allows" in faults[0]
    (tmp_path / "a.tar").write_bytes(tar_of(hidden | {"1.jpg": b"y"}))
    assert read(tmp_path / "a.tar")[0] == [("a.tar/1", {"jpg": b"y"})]  # these bytes are there


@pytest.mark.parametrize(
    ("cut", "samples", "fault"),
    [
        (lambda tar: tar[: tar.index(b"image 2") + 3], ["0", "1"], "cut in the middle"),
        (lambda tar: tar[: tar.index(b"2.png") + 600], ["0", "1"], "no end-of-archive"),
        (lambda tar: tar[:512] + b"x" * 512 + tar[1024:], [], "not a tar header"),
        (lambda tar: b"x" * 5000, [], "not a tar header"),
        (lambda tar: b"", [], "no end-of-archive"),
        (lambda tar: bytes(10_000), [], "empty-tar: no sample in it"),
        (lambda tar: gzip.compress(tar)[:-40], ["0"], "damaged-tar: "),
        (lambda tar: b"\x1f\x8b" + tar, [], "damaged-tar: "),
        (lambda tar: lzma.compress(tar)[:90], [], "damaged-tar: "),
    ],
)
def test_damage_is_reported_after_the_whole_samples(
    tmp_path: Path, cut: Callable[[bytes], bytes], samples: list[str], fault: str
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(cut(tar_of({k: v for k, v in FILES.items() if "seg" not in k})))
    found, faults = read(path)
    keys = [key.rpartition("/")[2] for key, _ in found]
    assert keys[: len(samples)] == samples
    assert len(keys) <= 2
    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "directory", "absent"])
def test_what_is_no_file_is_a_fault(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tar"
    {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to("a.tar"),
        "directory": path.mkdir,
        "absent": lambda: None,
    }[kind]()
    for location in (str(path), path.as_uri()):
        samples, faults = read(location)
        assert not samples
        assert len(faults) == 1
        assert faults[0].startswith("damaged-tar: ")


def test_the_machine_is_no_fault_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(location: str) -> IO[bytes]:
        raise OSError(errno.EMFILE, "Too many open files", location)

    monkeypatch.setattr("clip_eval.data.readers.streamed_tar.open_location", refuse)
    with pytest.raises(MachineError, match=r"Too many open files.*ulimit"):
        list(stream_tar("a.tar"))
    monkeypatch.undo()
    with pytest.raises(DataError, match="got ssh://"):
        list(stream_tar("ssh://host/a.tar"))

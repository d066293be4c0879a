"""One rule for all readers: regular files only, and a bound on each file and field."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from clip_eval.data import BadSample, DataError, Sample, open_source
from clip_eval.data.bounds import CAPTIONS, SAMPLE, TEXT, read_bounded
from clip_eval.data.class_names import ClassList


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_endless_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 * 2**30)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


MAKERS = {
    make_pipe: ("unreadable", "no regular file but a pipe"),
    make_endless_link: ("unreadable", "no regular file but a device"),
    make_sparse: ("too-large", "107,374,182,400 bytes are more than CLIP_EVAL_MAX_SAMPLE_MB=256"),
    make_socket: ("unreadable", "no regular file but a socket"),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("kind", ["imagefolder", "csv", "coco"])
def test_an_image_must_be_a_regular_file_of_some_size(
    color_folder: Path, kind: str, make: Callable[[Path], None]
) -> None:
    bad = color_folder / "red" / "0.png"
    bad.unlink()
    make(bad)
    table, notes = color_folder / "t.csv", color_folder / "t.json"
    table.write_text("path,caption\nred/0.png,a\nred/1.png,b\n")
    notes.write_text(
        '{"images": [{"id": 0, "file_name": "red/0.png"}, {"id": 1, "file_name": "red/1.png"}],'
        ' "annotations": [{"image_id": 0, "caption": "a"}, {"image_id": 1, "caption": "b"}]}'
    )
    place = {"imagefolder": color_folder, "csv": table, "coco": notes}[kind]
    if kind == "coco" and make is not make_sparse:
        notes.write_text(notes.read_text())  # its first image is no file, the second is
    source = open_source(f"{kind}:{place}")
    first = {"imagefolder": 8, "csv": 0, "coco": 0}[kind]
    reason, detail = MAKERS[make]
    with pytest.raises(BadSample, match=r"red/0\.png") as caught:
        source.read(first)
    assert caught.value.reason == reason
    assert detail in caught.value.detail
    assert source.read(first + 1).image == (color_folder / "red" / "1.png").read_bytes()


@pytest.mark.parametrize("make", [make_pipe, make_endless_link, make_sparse])
def test_lists_and_tables_must_be_too(
    tmp_path: Path, color_folder: Path, make: Callable[[Path], None]
) -> None:
    for name in ("a.csv", "a.json", "names.txt", "a.tar", "a.tfrecord", "metadata.pkl"):
        make(tmp_path / name)
    for spec in ("a.csv", "a.json", "a.tar", "a.tfrecord", "corenet:."):
        kind, _, rest = spec.rpartition(":")
        with pytest.raises(DataError):
            open_source(f"{kind}:{tmp_path}" if kind else tmp_path / rest)
    with pytest.raises(DataError, match=r"names\.txt: cannot be read"):
        ClassList.read(tmp_path / "names.txt")


def test_bounds_are_raised_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(2**20 + 1))
    monkeypatch.setenv(SAMPLE.variable, "1")
    with pytest.raises(OSError, match="1,048,577 bytes are more than CLIP_EVAL_MAX_SAMPLE_MB=1 "):
        read_bounded(path, SAMPLE)
    monkeypatch.setenv(SAMPLE.variable, "2")
    assert len(read_bounded(path, SAMPLE)) == 2**20 + 1
    for wrong in ("0", "-1", "many", "1e3", "9" * 40, "²"):
        monkeypatch.setenv(TEXT.variable, wrong)
        with pytest.raises(DataError, match="CLIP_EVAL_MAX_TEXT_MB: expected a whole number"):
            read_bounded(path, TEXT)


def test_captions_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    Sample("a", b"", ("x" * 199_999,))
    for captions in (("x" * 10**7,), ("x",) * 100_001, ("x" * 199_999, "y")):
        with pytest.raises(BadSample, match=r"key: too-large: captions of .* characters"):
            Sample("key", b"", captions)
    monkeypatch.setenv(CAPTIONS.variable, "20000000")
    Sample("a", b"", ("x" * 10**7,))


def test_labels_are_not_beyond_every_class() -> None:
    Sample("a", b"", label=2**31)
    for label in (2**63, -(2**63), 10**5000):
        with pytest.raises(BadSample, match="bad-label"):
            Sample("key", b"", label=label)


def test_pipes_of_the_shell_are_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"red\ngreen\n")
    os.close(writer)
    try:
        assert ClassList.read(f"/dev/fd/{reader}").names == ("red", "green")
    finally:
        os.close(reader)

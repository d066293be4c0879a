"""Few descriptors at any number of shards, and an end of them that blames no sample."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clip_eval.data import DataError
from clip_eval.data.faults import MachineError
from clip_eval.data.readers.image_folder import ImageFolder
from clip_eval.data.readers.webdataset import WebDataset
from clip_eval.data.shards import open_files
from clip_eval.data.shards.open_files import OPEN_FILES, OpenFiles, view_file


def held() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    """Leaves as many descriptors as are asked for; the limit is restored afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []

    def leave(count: int) -> None:
        highest = max(int(number) for number in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2 + count, before[1]))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(fillers.pop())

    yield leave
    for number in fillers:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_sources_share_a_few_descriptors_at_any_number_of_shards(
    tmp_path: Path, write_tar: Callable[..., Path], few_descriptors: Callable[[int], None]
) -> None:
    sources = []
    for name in "abcd":
        for number in range(40):
            write_tar(tmp_path / name / f"{number:02}.tar", {f"{name}{number}.jpg": b"i"})
        sources.append(WebDataset(tmp_path / name))
    before = held()
    for index in range(40):
        for source in sources:
            assert source.read(index).image == b"i"
    assert held() - before <= OPEN_FILES
    for source in sources:
        source._index._files.close()
    assert held() <= before
    few_descriptors(2)
    assert all(source.read(index).image == b"i" for index in (0, 17, 39) for source in sources)


def test_running_out_of_descriptors_blames_no_sample(
    tmp_path: Path,
    write_tar: Callable[..., Path],
    color_folder: Path,
    few_descriptors: Callable[[int], None],
) -> None:
    shards = WebDataset(write_tar(tmp_path / "a.tar", {"0.jpg": b"i"}))
    folder = ImageFolder(color_folder)
    open_files._open.clear()
    few_descriptors(0)
    with pytest.raises(MachineError, match=r"Too many open files.*; raise `ulimit -n`"):
        shards.read(0)
    with pytest.raises(MachineError, match=r"blue/0\.png: Too many open files"):
        folder.read(0)
    with pytest.raises(DataError, match="Too many open files"):
        WebDataset(tmp_path / "a.tar")


def test_a_file_that_leaves_the_cache_between_two_looks_is_fetched_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def locate(number: int) -> Path:
        path = tmp_path / str(number)
        asked.append(number)
        if len(asked) != 1:  # another process deleted the first one
            path.write_bytes(b"content")
        return path

    files = OpenFiles(locate)
    assert files.read_at(7, 3, 2) == b"te"
    assert asked == [7, 7]


@pytest.mark.parametrize("what", ["pipe", "device", "link to a device", "directory"])
def test_only_regular_files_are_opened(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match=r"no regular file|directory"), view_file(path):
        pass


def test_a_view_of_a_file_that_becomes_shorter_ends_earlier(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    with view_file(path) as view:
        assert (len(view), view[2:4], view[8:20]) == (10, b"23", b"89")
        os.truncate(path, 3)
        assert view[2:4] == b"2"

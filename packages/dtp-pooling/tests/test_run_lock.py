"""A run directory has one writer, and appears complete or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dtp_pooling import run_lock
from dtp_pooling.run_lock import RunInUseError, RunLock, is_unused, start_run


def write(directory: Path) -> None:
    (directory / "run.json").write_text("{}")
    (directory / "sub").mkdir()
    (directory / "sub" / "file").write_text("content")


def start(directory: Path, fill=write, *, overwrite: bool = False) -> RunLock:
    def is_occupied() -> bool:
        if not is_unused(directory) and not overwrite:
            raise FileExistsError(f"{directory} is not empty")
        return not is_unused(directory)

    return start_run(directory, fill, last="run.json", is_occupied=is_occupied)


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_the_second_is_refused_until_the_first_lets_go(tmp_path):
    with RunLock(tmp_path) as lock:
        with pytest.raises(RunInUseError, match=rf"in use by process {os.getpid()} on .*; wait"):
            RunLock(tmp_path)
        assert names(tmp_path) == [".lock"]
    assert names(tmp_path) == []
    lock.release()
    RunLock(tmp_path).release()


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom dtp_pooling.run_lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1]))\nprint('locked', flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunInUseError, match=f"process {holder.pid} on"):
            RunLock(tmp_path)
        holder.send_signal(signal.SIGSTOP)  # a stopped process still holds it
        with pytest.raises(RunInUseError):
            RunLock(tmp_path)
        holder.kill()
    assert names(tmp_path) == [".lock"]  # left by the killed process, and no obstacle
    assert is_unused(tmp_path)
    RunLock(tmp_path).release()


def test_a_forked_worker_does_not_hold_the_lock_of_its_parent(tmp_path):
    lock = RunLock(tmp_path)
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    try:
        lock.release()
        RunLock(tmp_path).release()
    finally:
        worker.kill()
        worker.join()


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    old = RunLock(tmp_path)
    flock, released = run_lock._flock, []

    def release_first(file: int, directory: Path) -> None:
        if not released:
            released.append(old.release())  # after the other has opened the file
        flock(file, directory)

    monkeypatch.setattr(run_lock, "_flock", release_first)
    with RunLock(tmp_path), pytest.raises(RunInUseError):
        RunLock(tmp_path)


@pytest.mark.parametrize("make", [os.symlink, os.link, lambda _, place: os.mkfifo(place)])
def test_no_file_of_the_user_is_written_through_a_lock_of_a_stranger(tmp_path, make):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("precious")
    make(tmp_path / "mine", tmp_path / "run" / ".lock")
    with pytest.raises(OSError, match=r"not a lock file.*delete it.*\.lock"):
        RunLock(tmp_path / "run")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="its file system has no locks"), RunLock(tmp_path):
        assert names(tmp_path) == [".lock"]


def test_a_run_directory_appears_in_one_rename(tmp_path):
    directory, seen = tmp_path / "new" / "run", []

    def fill(other: Path) -> None:
        write(other)
        seen.append((other.parent, directory.exists(), stat.S_IMODE(other.stat().st_mode)))

    with start(directory, fill), pytest.raises(RunInUseError):
        RunLock(directory)
    assert seen[0][:2] == (directory.parent, False)
    (tmp_path / "plain").mkdir()
    assert seen[0][2] == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert names(directory.parent) == ["run", "run/run.json", "run/sub", "run/sub/file"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_preparation_leaves_nothing(tmp_path, exists):
    directory = tmp_path / "run"
    if exists:
        directory.mkdir()

    def fill(other: Path) -> None:
        write(other)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        start(directory, fill)
    assert names(tmp_path) == ["run"] * exists
    start(directory).release()


@pytest.mark.parametrize("exists", [False, True])
def test_what_a_killed_preparation_leaves_is_no_run_and_no_obstacle(tmp_path, exists):
    directory = tmp_path / "run"
    if exists:
        directory.mkdir(mode=0o750)

    def fill(other: Path) -> None:
        write(other)
        os.kill(os.getpid(), signal.SIGKILL)

    worker = multiprocessing.get_context("fork").Process(target=start, args=(directory, fill))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert len(names(tmp_path)) > exists
    assert not (directory / "run.json").exists()
    start(directory).release()
    assert names(tmp_path) == ["run", "run/run.json", "run/sub", "run/sub/file"]
    if exists:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o750  # the user's own, kept


@pytest.mark.parametrize("exists", [False, True])
def test_of_two_that_start_at_once_one_is_refused(tmp_path, exists):
    directory = tmp_path / "run"
    if exists:
        directory.mkdir()
    first: list[RunLock] = []

    def overtaken(other: Path) -> None:
        write(other)
        if exists:
            with pytest.raises(RunInUseError):
                start(directory)
        else:
            first.append(start(directory))

    if exists:
        start(directory, overtaken).release()
    else:
        with pytest.raises(RunInUseError, match="was made by another process"):
            start(directory, overtaken)
        first[0].release()
    assert names(tmp_path) == ["run", "run/run.json", "run/sub", "run/sub/file"]


def test_a_live_run_is_not_set_aside_and_an_ended_one_is_when_the_new_one_is_whole(tmp_path):
    directory = tmp_path / "run"
    with start(directory), pytest.raises(RunInUseError):
        start(directory, overwrite=True)
    (directory / "mine").write_text("")

    def fail(other: Path) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        start(directory, fail, overwrite=True)
    assert (directory / "mine").exists()
    with pytest.raises(FileExistsError):
        start(directory)
    start(directory, overwrite=True).release()
    assert names(tmp_path / "run.old-1") == ["mine", "run.json", "sub", "sub/file"]
    assert names(directory) == ["run.json", "sub", "sub/file"]


def test_a_symbolic_link_stays_one_and_a_file_is_set_aside(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    start(tmp_path / "run").release()
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "elsewhere" / "run.json").is_file()
    (tmp_path / "file").write_text("mine")
    start(tmp_path / "file", overwrite=True).release()
    assert (tmp_path / "file.old-1").read_text() == "mine"

"""Checkpoints are whole or not there, however a write ends, and no flipped bit is read."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from dtp_pooling import checkpoint_files
from dtp_pooling.checkpoint_files import (
    CheckpointError,
    checkpoint_step,
    keep_last,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    read_state,
    verify_files,
    write_checkpoint,
)

WEIGHT = torch.arange(6.0).view(2, 3)
TENSORS = {
    "model": {"weight": WEIGHT, "tied": WEIGHT, "column": WEIGHT[:, 1], "none": torch.empty(0, 3)},
    "optimizer": {"moment": torch.tensor(2, dtype=torch.int64), "half": WEIGHT.bfloat16()},
}
STATE = {"samples": 80, "nested": {"rate": 0.1}, "names": ["a", "é"], "nothing": None}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def assert_reads_back(directory: Path, state: object = STATE) -> None:
    tensors, got = read_checkpoint(directory)
    assert got == state
    assert tensors.keys() == TENSORS.keys()
    for group, named in TENSORS.items():
        assert tensors[group].keys() == named.keys()
        for name, tensor in named.items():
            assert tensors[group][name].dtype == tensor.dtype
            assert torch.equal(tensors[group][name], tensor)


def test_what_was_written_is_read_back(tmp_path):
    directory = write_checkpoint(tmp_path / "checkpoints", 40, TENSORS, STATE)
    assert directory == tmp_path / "checkpoints" / "step-0000040"
    assert names(directory) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert names(tmp_path / "checkpoints") == ["step-0000040"]
    assert_reads_back(directory)
    assert read_state(directory) == STATE
    assert json.loads((directory / "state.json").read_text())["step"] == 40
    shutil.move(directory, tmp_path / "best")
    assert_reads_back(tmp_path / "best")


def test_a_model_without_tensors_or_state_is_a_checkpoint(tmp_path):
    assert read_checkpoint(write_checkpoint(tmp_path, 0, {}, {})) == ({}, {})
    assert read_checkpoint(write_checkpoint(tmp_path, 1, {"model": {}}, {})) == ({"model": {}}, {})


def test_added_files_are_verified_too(tmp_path):
    directory = write_checkpoint(
        tmp_path, 1, TENSORS, STATE, lambda path: (path / "config.json").write_text("{}") and None
    )
    assert_reads_back(directory)
    (directory / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        read_state(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_is_found_in_any_file(name, tmp_path):
    directory = write_checkpoint(tmp_path, 1, TENSORS, STATE)
    file = directory / name
    whole = file.read_bytes()
    for place in range(0, len(whole) - 1, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        for read in (read_checkpoint, read_state):
            with pytest.raises(CheckpointError) as raised:
                read(directory)
            assert str(directory) in str(raised.value)
            assert "\n" not in str(raised.value)
    file.write_bytes(whole)
    assert_reads_back(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_missing_or_shortened_file_is_named_with_a_remedy(name, tmp_path):
    directory = write_checkpoint(tmp_path, 1, TENSORS, STATE)
    whole = (directory / name).read_bytes()
    (directory / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged.*; delete .*step-0000001 to go"):
        read_checkpoint(directory)
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is damaged: it is missing; delete"):
        read_checkpoint(directory)


@pytest.mark.parametrize("text", ["[]", "{}", "1", "{", '{"format_version": 3}', "\x00"])
def test_a_state_of_another_shape_is_refused(text, tmp_path):
    directory = write_checkpoint(tmp_path, 1, TENSORS, STATE)
    (directory / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        read_checkpoint(directory)


def test_another_format_version_is_named(tmp_path):
    directory = write_checkpoint(tmp_path, 1, TENSORS, STATE)
    (directory / "state.json").write_text('{"format_version": 9}')
    with pytest.raises(CheckpointError, match="has format version 9, expected 3"):
        read_checkpoint(directory)


def test_no_file_outside_the_directory_is_looked_at(tmp_path):
    (tmp_path / "secret").write_text("")
    (tmp_path / "inside").mkdir()
    with pytest.raises(CheckpointError, match="it is missing"):
        verify_files(tmp_path / "inside", {"../secret": "0"})


class Kill(BaseException):
    """The end of the process, in the middle of a write."""


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("function", ["save_tensors", "_sha256", "_digest", "_flush"])
def test_a_kill_while_writing_leaves_the_old_checkpoints(function, step, tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1, TENSORS, STATE)

    def kill(*_: object) -> None:
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, function, kill)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a dead process tidies nothing
        with pytest.raises(Kill):
            write_checkpoint(tmp_path, step, TENSORS, {})
    assert list_checkpoints(tmp_path) == [tmp_path / "step-0000001"]
    assert_reads_back(tmp_path / "step-0000001")
    assert names(tmp_path) != ["step-0000001"]
    write_checkpoint(tmp_path, 3, TENSORS, STATE)
    assert names(tmp_path) == ["step-0000001", "step-0000003"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_between_renames_loses_no_checkpoint_of_the_step(renames, tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1, TENSORS, STATE)
    rename, done = Path.rename, []

    def kill_later(path: Path, target: Path) -> Path:
        if len(done) == renames:
            raise Kill
        done.append(target)
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", kill_later)
        with pytest.raises(Kill):
            write_checkpoint(tmp_path, 1, TENSORS, {})
    (found,) = list_checkpoints(tmp_path)
    assert checkpoint_step(found) == 1
    assert_reads_back(found)
    write_checkpoint(tmp_path, 1, TENSORS, {"new": True})
    assert names(tmp_path) == ["step-0000001"]
    assert_reads_back(tmp_path / "step-0000001", {"new": True})


def test_a_full_disk_is_an_os_error_and_leaves_the_old_checkpoint(tmp_path):
    write_checkpoint(tmp_path, 1, TENSORS, STATE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # bytes of a file
    try:
        for step in (1, 2):
            with pytest.raises(OSError, match=r"model\.safetensors could not be written"):
                write_checkpoint(tmp_path, step, {"model": {"large": torch.zeros(4096)}}, {})
            with pytest.raises(OSError):
                write_checkpoint(tmp_path, step, {}, {"long": "a" * 9999})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["step-0000001"]
    assert_reads_back(tmp_path / "step-0000001")


@pytest.mark.parametrize(
    ("umask", "file_mode", "mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)]
)
def test_modes_follow_the_umask(umask, file_mode, mode, tmp_path):
    before = os.umask(umask)
    try:
        directory = write_checkpoint(tmp_path, 1, TENSORS, STATE)
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == mode
    assert {file.stat().st_mode & 0o777 for file in directory.iterdir()} == {file_mode}


def test_checkpoints_are_listed_by_step_and_the_last_are_kept(tmp_path):
    assert list_checkpoints(tmp_path / "nowhere") == []
    assert newest_checkpoint(tmp_path) is None
    for step in (12345678, 5, 20, 10, 15):
        write_checkpoint(tmp_path, step, {}, {})
    for other in ("step-7", "step-0000007", "last", ".step-0000008.partial", "my-step-0000009"):
        (tmp_path / other).mkdir()
    (tmp_path / "last" / "state.json").touch()
    (tmp_path / ".step-0000008.partial" / "state.json").touch()
    (tmp_path / "my-step-0000009" / "state.json").touch()
    steps = [checkpoint_step(path) for path in list_checkpoints(tmp_path)]
    assert steps == [5, 10, 15, 20, 12345678]
    assert newest_checkpoint(tmp_path) == tmp_path / "step-12345678"
    keep_last(tmp_path, 2, keep_every=10)
    assert [checkpoint_step(path) for path in list_checkpoints(tmp_path)] == [10, 20, 12345678]
    keep_last(tmp_path, 1)
    keep_last(tmp_path, 1)
    assert list_checkpoints(tmp_path) == [tmp_path / "step-12345678"]
    with pytest.raises(CheckpointError, match="is not named step-NNNNNNN"):
        checkpoint_step(tmp_path)

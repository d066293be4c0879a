"""Checkpoints: whole or not there, however a write ends, and refused when a byte is not right."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from clip_models import CheckpointError, ConfigError, load_model
from clip_models.files import load_tensors
from clip_train import Config, Interrupted, resume, train
from clip_train.checkpoints.stores import LocalStore, RemoteStore, open_store
from clip_train.cli.main import main
from clip_train.engine.trainer import Trainer
from clip_train.errors import RunDirectoryError
from dtp_pooling import checkpoint_files


def with_checkpoint(config: Config, **changes: object) -> Config:
    return dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, **changes))


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = (load_tensors(path / "model.safetensors") for path in (one, other))
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the next run stop by itself after a step, as if a signal had come."""
    original = Trainer._agree_on_events

    def agree(self: Trainer, batch: object, stop: bool) -> None:
        original(self, batch, stop or self.steps_done == step)

    monkeypatch.setattr(Trainer, "_agree_on_events", agree)


@pytest.fixture
def stopped(vit_config: Config, tmp_path: Path) -> Path:
    """A run that was stopped at step 9, with checkpoints at 5 and 9."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 9)
        with pytest.raises(Interrupted):
            train(vit_config, tmp_path / "stopped", progress=False)
    assert LocalStore(tmp_path / "stopped" / "checkpoints").steps() == [5, 9]
    return tmp_path / "stopped"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "clip_config.json"])
def test_one_flipped_bit_is_found_and_the_older_checkpoint_goes_on(
    name: str, stopped: Path, vit_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stopped / "checkpoints" / "step-0000009" / name
    content = bytearray(file.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    file.write_bytes(content)
    assert main(["resume", str(stopped)]) == 2
    message = capsys.readouterr().err
    assert f"step-0000009/{name} is damaged" in message
    remedy = f"delete {file.parent} to go on from an older checkpoint: {stopped}/checkpoints/step-"
    assert f"{remedy}0000005" in message
    shutil.rmtree(file.parent)
    resume(stopped, progress=False)
    train(vit_config, tmp_path / "whole", progress=False)
    assert_same_weights(stopped, tmp_path / "whole")


def test_a_state_that_is_no_state(stopped: Path) -> None:
    state = stopped / "checkpoints" / "step-0000009" / "state.json"
    record = json.loads(state.read_text())
    for text, message in (
        ("{", "is damaged"),
        (json.dumps({**record, "state": {"progress": {"step": 9}}}), "is damaged"),
        (json.dumps({**record, "format_version": 99}), "has format version 99, expected 3"),
    ):
        state.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            resume(stopped, progress=False)


def test_another_architecture_is_named(stopped: Path) -> None:
    config = stopped / "config.toml"
    config.write_text(config.read_text().replace("num_layers = 2", "num_layers = 1"))
    with pytest.raises(CheckpointError, match=r"does not fit the run: unexpected visual\."):
        resume(stopped, progress=False)


@pytest.mark.parametrize("fails_at", ["model.safetensors", "optimizer.safetensors", "rename"])
def test_a_full_disk_loses_nothing_that_was_written(
    fails_at: str, vit_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, rename = checkpoint_files.save_tensors, Path.rename

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoint")

    def save_some(path: Path, tensors: object) -> None:
        if path.name == fails_at and "0000010" in str(path):
            path.write_bytes(b"the beginning of it")
            full()
        save(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "save_tensors", save_some)
        if fails_at == "rename":
            patch.setattr(
                Path, "rename", lambda a, b: full() if "0000010" in str(b) else rename(a, b)
            )
        with pytest.raises(OSError, match="No space left"):
            train(vit_config, tmp_path / "full", progress=False)
    left = {path.name for path in (tmp_path / "full" / "checkpoints").iterdir()}
    assert left == {"step-0000005"}
    load_model(tmp_path / "full" / "checkpoints" / "step-0000005")
    resume(tmp_path / "full", progress=False)
    train(vit_config, tmp_path / "whole", progress=False)
    assert_same_weights(tmp_path / "full", tmp_path / "whole")


def test_the_newest_stay_and_those_to_keep_for_good(vit_config: Config, tmp_path: Path) -> None:
    config = with_checkpoint(vit_config, every_steps=2, keep_last=2, keep_every_steps=4)
    train(config, tmp_path / "run", progress=False)
    assert LocalStore(tmp_path / "run" / "checkpoints").steps() == [4, 8, 12, 14]


def test_a_checkpoint_is_due_by_samples_and_by_minutes(
    vit_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_checkpoint(vit_config, every_steps=None, every_samples=30, keep_last=9)
    train(config, tmp_path / "samples", progress=False)
    assert LocalStore(tmp_path / "samples" / "checkpoints").steps() == [4, 8, 12, 14]
    now = iter(range(0, 100_000, 20))  # seconds: each step looks at the clock once
    monkeypatch.setattr("clip_train.engine.trainer.time.monotonic", lambda: next(now))
    config = with_checkpoint(vit_config, every_steps=None, every_minutes=1.5, keep_last=9)
    train(config, tmp_path / "minutes", progress=False)
    steps = LocalStore(tmp_path / "minutes" / "checkpoints").steps()
    assert steps[-1] == 14
    assert 2 <= len(steps) <= 4


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_checkpoints_behind_a_url(
    protocol: str, vit_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{protocol}://{tmp_path}/remote"
    config = with_checkpoint(vit_config, directory=url)
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9)
        with pytest.raises(Interrupted):
            train(config, path, progress=False)
    store = open_store(url, path)
    assert isinstance(store, RemoteStore)
    assert store.steps() == [5, 9]
    assert not (path / "checkpoints").exists()
    files = fsspec.filesystem(protocol)
    files.makedirs(f"{tmp_path}/remote/step-0000011")
    files.pipe_file(f"{tmp_path}/remote/step-0000011/model.safetensors", b"the beginning of it")
    assert store.steps() == [5, 9]  # one without a state is not there
    with store.reading(9) as directory:
        load_model(directory)
    resume(path, progress=False)
    assert store.steps() == [10, 14]
    train(vit_config, tmp_path / "whole", progress=False)
    assert_same_weights(path, tmp_path / "whole")


def test_a_failed_upload_leaves_what_was_there(tmp_path: Path) -> None:
    store = RemoteStore(f"memory://{tmp_path}/remote")
    assert store.steps() == []
    tensors = {"model": {"weight": torch.zeros(2)}}
    store.write(1, tensors, {}, lambda directory: None)
    with pytest.raises(ZeroDivisionError):
        store.write(1, tensors, {}, lambda directory: 1 / 0)
    assert store.steps() == [1]
    store.write(2, tensors, {}, lambda directory: None)
    store.keep_last(1, None)
    assert store.steps() == [2]


def test_checkpoints_of_format_version_2_are_resumed(
    stopped: Path, vit_config: Config, tmp_path: Path
) -> None:
    for directory in (stopped / "checkpoints").iterdir():
        record = json.loads((directory / "state.json").read_text())
        old = {"format_version": 2, **record["state"], "sha256": record["sha256"]}
        (directory / "state.json").write_text(json.dumps(old))
    damaged = stopped.with_name("damaged")
    shutil.copytree(stopped, damaged)
    resume(stopped, progress=False)
    train(vit_config, tmp_path / "whole", progress=False)
    assert_same_weights(stopped, tmp_path / "whole")
    (damaged / "checkpoints" / "step-0000009" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-0000009/model\.safetensors is damaged"):
        resume(damaged, progress=False)


def test_checkpoints_of_another_run_are_refused_and_stay(
    vit_config: Config, tmp_path: Path
) -> None:
    config = with_checkpoint(vit_config, directory=str(tmp_path / "shared"), every_steps=7)
    train(config, tmp_path / "one", progress=False)
    for out, overwrite in (("two", False), ("one", True)):
        with pytest.raises(
            RunDirectoryError, match=r"must hold no checkpoints of .* up to step 14"
        ):
            train(config, tmp_path / out, overwrite=overwrite, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "shared"}
    assert LocalStore(tmp_path / "shared").steps() == [7, 14]


@pytest.mark.parametrize(("url", "said"), [("s3://b/x", "Install s3fs"), ("foo://b/x", "foo")])
def test_a_url_that_nothing_here_reads(
    url: str, said: str, vit_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=rf"checkpoint\.directory must be .*got {url}: .*{said}"):
        train(with_checkpoint(vit_config, directory=url), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_a_run_began_with_is_not_needed_to_go_on(vit_config: Config, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(vit_config, first, progress=False)
    model = dataclasses.replace(vit_config.model, pretrained=str(first))
    tokenizer = dataclasses.replace(vit_config.tokenizer, kind="directory", path=str(first))
    config = dataclasses.replace(vit_config, model=model, tokenizer=tokenizer)
    train(config, tmp_path / "whole", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 9)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "stopped", progress=False)
    shutil.rmtree(first)
    resume(tmp_path / "stopped", progress=False)
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_faults_of_the_listing_count_no_more_after_a_resume_than_before(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    listed = {"kind": "fault", "step": 0, "counts": {"empty": 1}, "samples": ["0.tar: empty"]}
    with open(stopped / "metrics.jsonl", "a") as file:
        file.write(json.dumps(listed) + "\n")
        file.write(json.dumps({**listed, "step": 3, "samples": ["a.jpg: empty"]}) + "\n")
    monkeypatch.setattr(Trainer, "run", lambda self: seen.append(self.faults.samples))
    resume(stopped, progress=False)
    assert seen == [{"a.jpg: empty"}]

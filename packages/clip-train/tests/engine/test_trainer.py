"""Training: it learns, explains itself, and an interruption changes nothing."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import ClassVar

import clip_train
import pytest
import torch
from clip_models import CheckpointError, ConfigError, load_model
from clip_models.files import load_tensors
from clip_tokenizer import Tokenizer
from clip_train import Config, Interrupted, TrainingError, resume, train
from clip_train.checkpoints.stores import LocalStore
from clip_train.data.batches import Batch
from clip_train.engine.trainer import Trainer
from clip_train.errors import RunDirectoryError
from clip_train.logs.run_directory import RunDirectory
from dtp_pooling.run_lock import RunInUseError
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def rows(path: Path, kind: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def with_train(config: Config, **changes: object) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


@pytest.fixture
def finished(tiny_config: Config, tmp_path: Path) -> Path:
    train(tiny_config, tmp_path / "run", progress=False)
    return tmp_path / "run"


def test_a_run_directory_explains_itself(finished: Path, tiny_config: Config) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.toml",
        "metrics.jsonl",
        "curves.png",
        "tensorboard",
        "checkpoints",
        "model.safetensors",
        "clip_config.json",
        "tokenizer.json",
        "zeroshot_classification_templates.txt",
    } <= names
    assert RunDirectory.read_config(finished) == tiny_config
    assert [path.name for path in sorted((finished / "checkpoints").iterdir())] == [
        "step-0000010",
        "step-0000014",
    ]
    assert [row["step"] for row in rows(finished, "train")] == [2, 4, 6, 8, 10, 12, 14]
    assert [row["step"] for row in rows(finished, "eval")] == [14]
    row = rows(finished, "train")[-1]
    assert {"loss", "lr", "logit_scale", "grad_norm", "samples_per_s", "data_wait"} <= row.keys()
    assert row["samples"] == 14 * 8
    with Image.open(finished / "curves.png") as picture:
        assert picture.size[0] > 500
    events = list((finished / "tensorboard").iterdir())
    assert events
    assert events[0].stat().st_size > 500


def test_the_loss_falls(tiny_config: Config, tmp_path: Path) -> None:
    train(with_train(tiny_config, steps=60), tmp_path / "run", progress=False)
    losses = [row["loss"] for row in rows(tmp_path / "run", "train")]
    assert sum(losses[-5:]) / 5 < 0.85 * sum(losses[:3]) / 3


def test_a_subclass_of_trainer_may_train(tiny_config: Config, tmp_path: Path) -> None:
    class Counting(clip_train.Trainer):
        counts: ClassVar[list[int]] = []

        def step(self, batch: Batch) -> None:
            super().step(batch)
            self.counts.append(self.samples_done)

    config = with_train(tiny_config, steps=3)
    train(config, tmp_path / "run", progress=False, make_trainer=Counting)
    assert Counting.counts == [8, 16, 24]


def test_same_seed_same_weights(finished: Path, tiny_config: Config, tmp_path: Path) -> None:
    train(tiny_config, tmp_path / "again", progress=False)
    assert_same_weights(finished, tmp_path / "again")
    train(with_train(tiny_config, seed=1), tmp_path / "other", progress=False)
    one, other = (load_tensors(p / "model.safetensors") for p in (finished, tmp_path / "other"))
    assert not torch.equal(one["text_projection"], other["text_projection"])


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = (load_tensors(path / "model.safetensors") for path in (one, other))
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_a_run_that_is_going_on_is_left_alone(tiny_config: Config, tmp_path: Path) -> None:
    """A second run, a resume and an overwrite are refused while the first trains."""
    out, refused = tmp_path / "run", []

    class Disturbed(Trainer):
        def step(self, batch: Batch) -> None:
            super().step(batch)
            if self.steps_done == 4:
                for call in (
                    lambda: train(tiny_config, out, progress=False, overwrite=True),
                    lambda: resume(out, progress=False),
                ):
                    with pytest.raises(RunInUseError, match=f"in use by process {os.getpid()} "):
                        call()
                    refused.append(call)
                with pytest.raises(RunDirectoryError, match="already exists"):
                    train(tiny_config, out, progress=False)

    train(with_train(tiny_config, steps=6), out, progress=False, make_trainer=Disturbed)
    assert len(refused) == 2
    assert [row["step"] for row in rows(out, "train")] == [2, 4, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (out / ".lock").exists()


def test_a_start_that_fails_leaves_nothing(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Tokenizer.save

    def fill_the_disk(self: Tokenizer, directory: Path) -> None:
        save(self, directory)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "tokenizer.json")

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "save", fill_the_disk)
        with pytest.raises(OSError, match="No space left"):
            train(tiny_config, tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []
    train(with_train(tiny_config, steps=2), tmp_path / "run", progress=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_is_bit_exact(
    finished: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    step, before = Trainer.step, signal.getsignal(number)

    def step_and_signal(self: Trainer, batch: object) -> None:
        step(self, batch)
        if self.steps_done == 7:
            os.kill(os.getpid(), number)

    path = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step_and_signal)
        with pytest.raises(
            Interrupted, match=r"stopped at step 7 of 14; continue with `clip-train"
        ):
            train(tiny_config, path, progress=False)
    assert signal.getsignal(number) == before
    assert not (path / "model.safetensors").exists()
    assert (path / "checkpoints" / "step-0000007").is_dir()
    resume(path, progress=False)
    assert_same_weights(finished, path)
    ours, theirs = rows(path, "train"), rows(finished, "train")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert ours[-1]["loss"] == theirs[-1]["loss"]


def test_a_crash_resumes_from_the_newest_checkpoint(
    finished: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def step_and_crash(self: Trainer, batch: object) -> None:
        if self.steps_done == 13:
            raise RuntimeError("power cut")
        step(self, batch)

    path = tmp_path / "crashed"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step_and_crash)
        with pytest.raises(RuntimeError, match="power cut"):
            train(tiny_config, path, progress=False)
    (path / "checkpoints" / ".step-0000012.partial").mkdir()  # a write that was cut off
    assert rows(path, "train")[-1]["step"] == 12
    resume(path, progress=False)
    assert_same_weights(finished, path)
    assert [row["step"] for row in rows(path, "train")] == [2, 4, 6, 8, 10, 12, 14]
    assert rows(path, "train") != []


def test_resume_without_any_checkpoint_starts_over(
    finished: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "early"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lambda self, batch: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny_config, path, progress=False)
    resume(path, progress=False)
    assert_same_weights(finished, path)


def test_resume_refuses_what_it_cannot_go_on_with(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is finished"):
        resume(finished, progress=False)
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        resume(tmp_path, progress=False)
    (finished / "model.safetensors").unlink()
    newest = finished / "checkpoints" / "step-0000014"
    whole = (newest / "optimizer.safetensors").read_bytes()
    (newest / "optimizer.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        resume(finished, progress=False)


def test_other_data_or_length_is_not_resumed(finished: Path) -> None:
    (finished / "model.safetensors").unlink()
    state = finished / "checkpoints" / "step-0000014" / "state.json"
    record = json.loads(state.read_text())
    progress = record["state"]["progress"]
    assert (progress["step"], progress["num_samples"], progress["total_steps"]) == (14, 96, 14)
    assert progress["samples"] == 14 * 8
    for change, message in (
        ({"num_samples": 97}, "the run has 97 training samples and 14 steps"),
        ({"data": "0123456789abcdef"}, "holds other samples than when the run began"),
    ):
        del record["record_sha256"]
        record["state"]["progress"] = {**progress, **change}
        record["record_sha256"] = hashlib.sha256(json.dumps(record).encode()).hexdigest()
        state.write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=message):
            resume(finished, progress=False)


def test_rotation_and_resume_leave_foreign_directories_alone(
    tiny_config: Config, tmp_path: Path
) -> None:
    checkpoint = dataclasses.replace(tiny_config.checkpoint, every_steps=2, keep_last=1)
    config = dataclasses.replace(tiny_config, checkpoint=checkpoint)
    mine = tmp_path / "run" / "checkpoints" / "step-best"
    evaluate = Trainer.evaluate

    def evaluate_and_copy(self: Trainer) -> None:
        shutil.copytree(self.directory.checkpoints / "step-0000014", mine)
        evaluate(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "evaluate", evaluate_and_copy)
        train(config, tmp_path / "run", progress=False)
    found = {path.name for path in mine.parent.iterdir()}
    assert found == {"step-best", "step-0000014"}
    assert LocalStore(mine.parent).steps() == [14]


def test_nothing_is_lost_when_the_last_evaluation_fails(
    finished: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Trainer) -> None:
        raise OSError("the disk with the images is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", fail)
        with pytest.raises(OSError, match="gone"):
            train(tiny_config, tmp_path / "other", progress=False)
    resume(tmp_path / "other", progress=False)
    assert_same_weights(finished, tmp_path / "other")
    assert [row["step"] for row in rows(tmp_path / "other", "eval")] == [14]


def test_a_diverged_run_keeps_its_good_checkpoints(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def step_and_diverge(self: Trainer, batch: object) -> None:
        if self.steps_done == 6:
            with torch.no_grad():
                self.model.text_projection.fill_(torch.nan)
        step(self, batch)

    config = dataclasses.replace(
        tiny_config,
        checkpoint=dataclasses.replace(tiny_config.checkpoint, every_steps=3),
        log=dataclasses.replace(tiny_config.log, every_steps=1000),
    )
    monkeypatch.setattr(Trainer, "step", step_and_diverge)
    with pytest.raises(TrainingError, match="not finite by step 9"):
        train(config, tmp_path / "run", progress=False)
    assert LocalStore(tmp_path / "run" / "checkpoints").steps() == [3, 6]


def test_a_relative_source_can_be_resumed_from_elsewhere(
    tiny_config: Config, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shapes)
    data = dataclasses.replace(tiny_config.data, train="wds:train", val="val")
    train(dataclasses.replace(tiny_config, data=data), tmp_path / "run", progress=False)
    written = RunDirectory.read_config(tmp_path / "run").data
    assert (written.train, written.val) == (f"wds:{shapes}/train", f"{shapes}/val")


def test_events_are_on_disk_after_an_interrupt(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: Trainer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save_checkpoint", crash)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, tmp_path / "run", progress=False)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4]


def test_a_saved_tokenizer_is_used(tiny_config: Config, tmp_path: Path) -> None:
    Tokenizer.train(["a cat and a dog"] * 3, 520, context_length=40).save(tmp_path / "tokenizer")
    tokenizer = dataclasses.replace(
        tiny_config.tokenizer, kind="directory", path=str(tmp_path / "tokenizer")
    )
    config = dataclasses.replace(with_train(tiny_config, steps=2), tokenizer=tokenizer)
    train(config, tmp_path / "run", progress=False)
    model, _ = load_model(tmp_path / "run")
    assert model.config.text.context_length == 40
    assert model.config.text.vocab_size == 520


def test_an_existing_directory_is_refused_or_set_aside(finished: Path, tiny_config: Config) -> None:
    with pytest.raises(RunDirectoryError, match="already exists and is not empty; continue it"):
        train(tiny_config, finished, progress=False)
    before = (finished / "metrics.jsonl").read_text()
    train(with_train(tiny_config, steps=2), finished, overwrite=True, progress=False)
    aside = finished.with_name("run.old-1")
    assert (aside / "metrics.jsonl").read_text() == before
    assert len(rows(finished, "train")) == 1


def test_a_bad_config_leaves_no_directory(tiny_config: Config, tmp_path: Path) -> None:
    config = with_train(tiny_config, steps=None)
    with pytest.raises(ConfigError, match=r"give train\.steps, train\.samples or"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_infinite_loss_stops_the_run(tiny_config: Config, tmp_path: Path) -> None:
    optim = dataclasses.replace(tiny_config.optim, lr=1e30, clip_norm=None, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"is not finite by step \d+; the batch that did it"):
        train(dataclasses.replace(tiny_config, optim=optim), tmp_path / "run", progress=False)


def test_too_many_bad_samples_stop_the_run(tiny_config: Config, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(10):
            file = tmp_path / "data" / name / f"{index}.png"
            Image.new("RGB", (8, 8), (index, 0, 0)).save(file)
            if index == 4:
                file.write_bytes(b"")
    data = dataclasses.replace(
        tiny_config.data,
        train=f"imagefolder:{tmp_path}/data",
        val="",
        templates=("a {c}",),
        max_faults=1,
    )
    config = dataclasses.replace(tiny_config, data=data)
    with pytest.raises(TrainingError, match=r"2 samples could not be read, more than data\.max_"):
        train(config, tmp_path / "run", progress=False)
    counted = rows(tmp_path / "run", "fault")
    assert sum(sum(row["counts"].values()) for row in counted) == 2
    assert sum(len(row["samples"]) for row in counted) == 2
    assert all("4.png" in detail for row in counted for detail in row["samples"])


def test_bfloat16_trains_and_keeps_fp32_weights(tiny_config: Config, tmp_path: Path) -> None:
    train(with_train(tiny_config, precision="bf16", steps=4), tmp_path / "run", progress=False)
    model, _ = load_model(tmp_path / "run")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    fp32 = tmp_path / "fp32"
    train(with_train(tiny_config, steps=4), fp32, progress=False)
    ours, theirs = (rows(path, "train")[0]["loss"] for path in (tmp_path / "run", fp32))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)


def test_the_logit_scale_stays_below_100(tiny_config: Config, tmp_path: Path) -> None:
    optim = dataclasses.replace(tiny_config.optim, lr=3.0, warmup_steps=0)
    config = dataclasses.replace(tiny_config, optim=optim)
    train(with_train(config, steps=6), tmp_path / "run", progress=False)
    assert max(row["logit_scale"] for row in rows(tmp_path / "run", "train")) <= 100.001


def test_unknown_device(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.device 'gpu9' cannot be used"):
        train(with_train(tiny_config, device="gpu9"), tmp_path / "run", progress=False)

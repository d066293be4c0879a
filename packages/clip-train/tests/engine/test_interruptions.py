"""Signals, dead workers and bad data while a run starts and trains: what is kept, what is said."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import tomli_w
import torch
from clip_eval.data import DataError
from clip_models.config import to_dict
from clip_models.files import load_tensors
from clip_train import Config, Interrupted, TrainingError, resume, train
from clip_train.cli.main import main
from clip_train.data.batches import Batch, BatchReader
from clip_train.data.decoding import PixelReader
from clip_train.engine.fault_log import FaultLog
from clip_train.engine.stop_signals import StopNow, stop_signals
from clip_train.engine.trainer import Trainer
from clip_train.logs.run_directory import RunDirectory
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def with_data(config: Config, **changes: object) -> Config:
    data = dataclasses.replace(config.data, **{"val": "", **changes})
    return dataclasses.replace(config, data=data)


def steps_saved(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = (load_tensors(path / "model.safetensors") for path in (one, other))
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


class At(Trainer):
    """Does something after a step."""

    step_number, action = 7, staticmethod(lambda: None)

    def step(self, batch: Batch) -> None:
        super().step(batch)
        if self.steps_done == self.step_number:
            self.action()


def signal_all() -> None:
    """SIGTERM to the run and its workers, and again: what Slurm, `timeout` and torchrun do."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    assert len(processes) > 1
    for _ in range(2):
        for process in processes:
            os.kill(process, signal.SIGTERM)
        time.sleep(0.05)


def kill_a_worker() -> None:
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    time.sleep(0.3)  # the signal comes in the middle of a step


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_to_the_whole_job_ends_in_a_checkpoint(
    tiny_config: Config, tmp_path: Path, workers: int
) -> None:
    config = with_data(tiny_config, workers=workers)
    trainer = type("Signalled", (At,), {"action": staticmethod(signal_all)})
    with pytest.raises(Interrupted, match="stopped at step 7 of 14; continue with `clip-train res"):
        train(config, tmp_path / "stopped", progress=False, make_trainer=trainer)
    assert multiprocessing.active_children() == []
    assert steps_saved(tmp_path / "stopped") == ["step-0000005", "step-0000007"]
    resume(tmp_path / "stopped", progress=False)
    train(config, tmp_path / "whole", progress=False)
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_a_killed_worker_ends_in_a_checkpoint_and_one_line(
    tiny_config: Config, tmp_path: Path
) -> None:
    config = with_data(tiny_config, workers=1)
    trainer = type("Killed", (At,), {"action": staticmethod(kill_a_worker)})
    expected = r"data worker died \(process \d+ was killed by signal 9\).*; step 7 is saved: contin"
    with pytest.raises(TrainingError, match=expected):
        train(config, tmp_path / "killed", progress=False, make_trainer=trainer)
    assert steps_saved(tmp_path / "killed")[-1] == "step-0000007"
    resume(tmp_path / "killed", progress=False)
    train(config, tmp_path / "whole", progress=False)
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")
    rows = [RunDirectory(tmp_path / name).metrics("train") for name in ("killed", "whole")]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    assert rows[0][-1]["loss"] == rows[1][-1]["loss"]


@pytest.mark.parametrize(
    "error", [DataError("a shard is gone"), OSError(24, "Too many open files"), MemoryError()]
)
def test_data_that_ends_in_the_middle_leaves_a_checkpoint(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    read = BatchReader.__getitem__

    def fail(self: BatchReader, step: int) -> Batch:
        if step == 6:
            raise error
        return read(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(BatchReader, "__getitem__", fail)
        with pytest.raises(TrainingError, match=r"\w.*; step 6 is saved: continue with `clip-trai"):
            train(with_data(tiny_config), tmp_path / "run", progress=False)
    assert steps_saved(tmp_path / "run")[-1] == "step-0000006"
    resume(tmp_path / "run", progress=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_first_batch_that_cannot_be_made_leaves_no_directory(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Such as without the data that nltk needs for `tokenizer.reduction = "syntax"`."""

    def fail(self: BatchReader, step: int) -> Batch:
        raise DataError("a resource is missing")

    monkeypatch.setattr(BatchReader, "__getitem__", fail)
    out = tmp_path / "run"
    with pytest.raises(DataError, match=r"^a resource is missing$"):
        train(with_data(tiny_config, workers=workers), out, progress=False)
    assert list(tmp_path.iterdir()) == []
    (out / "mine").mkdir(parents=True)
    with pytest.raises(DataError):
        train(with_data(tiny_config), out, progress=False, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "mine"]


def interrupt_soon(after: float, number: int = signal.SIGINT) -> None:
    pid = os.getpid()
    code = f"import os, time; time.sleep({after}); os.kill({pid}, {int(number)})"
    multiprocessing.get_context("fork").Process(target=exec, args=(code,), daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_decoding_is_interrupted_at_once(
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    decode = PixelReader.decode

    def slow(self: PixelReader, *arguments: object) -> object:
        time.sleep(0.2)  # 96 images: 20 s
        return decode(self, *arguments)

    monkeypatch.setattr(PixelReader, "decode", slow)
    file = tmp_path / "config.toml"
    config = with_data(tiny_config, cache_images=True)
    file.write_text(tomli_w.dumps(to_dict(config)))
    before = time.monotonic()
    interrupt_soon(4, number)
    assert main(["run", str(file), "--out", str(tmp_path / "run"), "--quiet"]) == 130
    assert time.monotonic() - before < 10
    assert capsys.readouterr().err == "clip-train: interrupted\n"
    assert list(tmp_path.iterdir()) == [file]


def test_waiting_for_data_is_interrupted_at_once(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = BatchReader.__getitem__

    def wait(self: BatchReader, step: int) -> Batch:
        if step == 3:
            time.sleep(30)
        return read(self, step)

    monkeypatch.setattr(BatchReader, "__getitem__", wait)
    trainer = type("Waiting", (At,), {"step_number": 3, "action": lambda _: interrupt_soon(0.5)})
    before = time.monotonic()
    with pytest.raises(Interrupted, match="stopped at step 3 of 14"):
        train(
            with_data(tiny_config, workers=1),
            tmp_path / "run",
            progress=False,
            make_trainer=trainer,
        )
    assert time.monotonic() - before < 20
    assert steps_saved(tmp_path / "run") == ["step-0000003"]


def test_evaluation_is_interrupted_at_once_and_made_by_the_resumed_run(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("clip_train.engine.trainer.evaluate_set", wait)
        before = time.monotonic()
        with pytest.raises(Interrupted, match="stopped at step 14 of 14"):
            train(tiny_config, run, progress=False)
        assert time.monotonic() - before < 20
    assert not (run / "model.safetensors").exists()
    resume(run, progress=False)
    assert [row["step"] for row in RunDirectory(run).metrics("eval")] == [14]


def test_repeated_signals() -> None:
    """SIGTERM stays a request; Ctrl-C interrupts when it is repeated after a second."""
    with stop_signals() as request:
        assert not request.is_set()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert request.is_set()
        with pytest.raises(StopNow), request.acting_at_once():
            pytest.fail("the request was made before")
        time.sleep(1.1)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_limit_of_faults_is_a_share_with_a_floor(tmp_path: Path) -> None:
    names = iter(range(10**6))

    def add(log: FaultLog, count: int, read: int) -> None:
        log.add(1, [["truncated", f"{next(names)}.jpg"] for _ in range(count)], read=read)

    log = FaultLog(RunDirectory(tmp_path), max_faults=0.05)
    add(log, 100, 128)  # few
    add(log, 900, 20_000)  # five percent
    with pytest.raises(TrainingError, match=r"1,001 samples .* = 0\.05 of the 20,000 read so far;"):
        add(log, 1, 20_000)
    for limit, allowed in ((0, 0), (3, 3), (1000, 1000)):  # numbers, as they always were
        log = FaultLog(RunDirectory(tmp_path), max_faults=limit)
        add(log, allowed, 10**9)
        with pytest.raises(TrainingError, match=rf"{allowed + 1:,} samples .* = {limit}; the last"):
            add(log, 1, 10**9)


def test_a_set_without_many_captions_ends_early_with_a_checkpoint(
    tiny_config: Config, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    lines = ["filepath,caption"]
    for index in range(600):
        Image.new("RGB", (8, 8), (index % 256, 0, 0)).save(tmp_path / f"images/{index}.png")
        lines.append(f"{index}.png,{'' if index % 3 == 0 else f'picture {index}'}")
    (tmp_path / "images" / "captions.csv").write_text("\n".join(lines))
    config = with_data(tiny_config, train=f"csv:{tmp_path}/images/captions.csv")
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, batch_size=50, steps=40)
    )
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"more than data\.max_faults = 0\.05 of the \d+ read"):
        train(config, run, progress=False)
    (saved,) = steps_saved(run)
    assert 4 <= int(saved.removeprefix("step-")) <= 12


def test_the_clock_of_the_progress_bar_starts_after_the_first_step(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = BatchReader.__getitem__, []

    def slow_at_first(self: BatchReader, step: int) -> Batch:
        if step == 0:
            time.sleep(3)
        return read(self, step)

    class Watched(Trainer):
        def log(self, bar: object) -> None:
            seen.append(dict(bar.format_dict))
            super().log(bar)

    monkeypatch.setattr(BatchReader, "__getitem__", slow_at_first)
    config = with_data(tiny_config)
    train(config, tmp_path / "run", make_trainer=Watched)
    assert seen[0]["n"] - seen[0]["initial"] == 1
    assert seen[0]["elapsed"] < 1.5
    speeds = [row["samples_per_s"] for row in RunDirectory(tmp_path / "run").metrics("train")]
    assert speeds[0] > 8

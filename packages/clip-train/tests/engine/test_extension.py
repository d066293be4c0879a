"""A finished run is trained longer, with a schedule that says what it does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from clip_models import ConfigError
from clip_models.files import load_tensors
from clip_train import Config, resume, train
from clip_train.cli.main import main
from clip_train.engine.trainer import Trainer
from clip_train.errors import RunDirectoryError
from clip_train.logs.run_directory import RunDirectory


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    for name, values in sections.items():
        section = dataclasses.replace(getattr(config, name), **values)
        config = dataclasses.replace(config, **{name: section})
    return config


def rows(path: Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["kind"] == kind]


@pytest.fixture
def plain(tiny_config: Config) -> Config:
    """Constant after warmup, so that a longer run begins as a shorter one; six steps."""
    return changed(tiny_config, optim={"schedule": "constant"}, train={"steps": 6})


def assert_same(one: Path, other: Path) -> None:
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_longer_run_is_the_run_that_was_longer_from_the_start(
    plain: Config, tmp_path: Path
) -> None:
    longer = changed(plain, train={"steps": 12})
    train(longer, tmp_path / "whole", progress=False)
    path = tmp_path / "run"
    train(plain, path, progress=False)
    before = (path / "model.safetensors").read_bytes()
    with pytest.warns(UserWarning, match="goes on from step 6 to 12, it was planned to end at 6"):
        resume(path, longer, progress=False)
    assert_same(path, tmp_path / "whole")
    assert (path / "model.step-0000006.safetensors").read_bytes() == before
    assert RunDirectory.read_config(path).train.steps == 12
    assert [row["step"] for row in rows(path, "train")] == [2, 4, 6, 8, 10, 12]
    (row,) = rows(path, "extension")
    assert (row["step"], row["from"], row["to"]) == (6, 6, 12)


@pytest.mark.filterwarnings("ignore:the run goes on from step 6")
def test_an_extended_run_is_interrupted_and_resumed(
    plain: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = changed(plain, train={"steps": 12}, checkpoint={"every_steps": 50})
    train(longer, tmp_path / "whole", progress=False)
    path = tmp_path / "run"
    train(plain, path, progress=False)
    step = Trainer.step

    def crash(self: Trainer, batch: Any) -> None:
        if self.steps_done == 9:
            raise RuntimeError("power cut")
        step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            resume(path, longer, progress=False)
    resume(path, progress=False)
    assert_same(path, tmp_path / "whole")


@pytest.mark.filterwarnings("always:the run goes on from step 6")
def test_the_command_extends_a_run(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    train(changed(tiny_config, train={"steps": 6}), path, progress=False)
    assert main(["resume", str(path), "--train.epochs", "2", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert f"run directory: {path}" in captured.out
    assert "cosine from 0.001 to 0 until step 24" in captured.err
    assert rows(path, "train")[-1]["step"] == 24  # an epoch is twelve steps
    assert RunDirectory.read_config(path).train.steps is None
    for flags, words in (
        (["--train.steps", "24"], "has 24 steps already, and its new length is 24; give more"),
        (["--train.steps", "9"], "has 24 steps already, and its new length is 9"),
        (["--train.seed", "1", "--train.steps", "30"], "train.seed cannot change while a run is"),
        (["--model.name", "Compact-32"], "model.name cannot change"),
        (["--train.step", "30"], "unknown key 'train.step'"),
    ):
        weights = (path / "model.safetensors").read_bytes()
        assert main(["resume", str(path), *flags, "--quiet"]) == 2
        assert words in capsys.readouterr().err
        assert (path / "model.safetensors").read_bytes() == weights
    with pytest.raises(RunDirectoryError, match="is finished; there is nothing to resume, except"):
        resume(path, progress=False)


def test_patience_begins_anew(
    plain: Config, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip_train.engine.validation.validation_loss", lambda *_: 1.0)
    config = changed(
        plain,
        data={"val": f"wds:{shapes}/train"},
        eval={"every_steps": 1, "metric": "loss", "patience": 2},
    )
    path = tmp_path / "run"
    train(config, path, progress=False)
    (end,) = rows(path, "early_end")
    assert end["step"] == 3
    with pytest.warns(UserWarning, match="goes on from step 3 to 12, it was planned to end at 6"):
        resume(path, changed(config, train={"steps": 12}), progress=False)
    assert [row["step"] for row in rows(path, "early_end")] == [3, 5]
    weights = load_tensors(path / "model.safetensors")
    assert weights.keys() == load_tensors(path / "model.step-0000003.safetensors").keys()


def test_patience_begins_anew_for_a_run_that_is_killed_before_its_next_checkpoint(
    plain: Config, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip_train.engine.validation.validation_loss", lambda *_: 1.0)
    config = changed(
        plain,
        data={"val": f"wds:{shapes}/train"},
        eval={"every_steps": 1, "metric": "loss", "patience": 2},
    )
    path = tmp_path / "run"
    train(config, path, progress=False)
    assert [row["step"] for row in rows(path, "early_end")] == [3]
    patient = changed(config, eval={"patience": 3})  # of the same length
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            resume(path, patient, progress=False)
    resume(path, progress=False)
    assert [row["step"] for row in rows(path, "eval")] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows(path, "extension")] == [3]


def test_sets_that_a_kill_left_out_are_evaluated(
    plain: Config, shapes: Path, tmp_path: Path
) -> None:
    data = f"wds:{shapes}/train"
    config = changed(
        plain,
        data={"val": (data, f"{shapes}/val")},
        eval={"names": ("pairs", "classes"), "metric": "pairs/loss"},
        train={"steps": 2},
    )
    path = tmp_path / "run"
    train(config, path, progress=False)
    whole = (path / "metrics.jsonl").read_text()
    kept = [line for line in whole.splitlines() if '"data": "classes"' not in line]
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in kept))
    (path / "model.safetensors").unlink()
    best = json.loads((path / "best" / "best.json").read_text())
    (path / "best" / "best.json").write_text(json.dumps({**best, "step": 1}))
    resume(path, progress=False)
    assert sorted(rows(path, "eval"), key=str) == sorted(
        [row for row in map(json.loads, whole.splitlines()) if row["kind"] == "eval"], key=str
    )
    assert json.loads((path / "best" / "best.json").read_text()) == best


def test_changes_of_the_data_are_refused(plain: Config, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(changed(plain, train={"steps": 2}), path, progress=False)
    with pytest.raises(ConfigError, match=r"data\.train, loss\.kind cannot change"):
        resume(path, changed(plain, data={"train": "shapes:96@48"}, loss={"kind": "infonce"}))

"""Checkpoints of training: the newest is found, damage is named, the earlier layout goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from dtp_pooling import BoundaryConfig, LanguageModelConfig
from dtp_pooling.training.config import TrainingConfig
from dtp_pooling.training.run_directory import create_run, read_model, read_run
from dtp_pooling.training.trainer import Trainer
from dtp_pooling.training.training_state import load_training_state

TEXT = "the cat sat on the mat and the dog sat on the log while a cow ate the hay " * 12
CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    model=LanguageModelConfig(
        width=16,
        num_heads=2,
        head_dim=8,
        feedforward=32,
        pre_layers=1,
        shortened_layers=1,
        post_layers=1,
        boundaries=BoundaryConfig(kind="gumbel"),
    ),
    steps=6,
    batch_size=2,
    context=32,
    learning_rate=1e-2,
    warmup=2,
    evaluate_every=3,
    evaluation_window=32,
    evaluation_stride=16,
)


@pytest.fixture
def whole(tmp_path: Path) -> Trainer:
    """A run that was trained to its end, with checkpoints of steps 3 and 6."""
    create_run(tmp_path / "whole", CONFIG, TEXT, TEXT[:200])
    trainer = continued(tmp_path / "whole")
    trainer.run()
    return trainer


def continued(directory: Path) -> Trainer:
    return Trainer(directory, TEXT, TEXT[:200], CPU, quiet=True)


def in_earlier_layout(source: Path, directory: Path, name: str = "checkpoint") -> Path:
    """The run as it was at step 3, with one checkpoint that holds a pickled optimizer state."""
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("step-0000006"))
    trainer = continued(directory)
    assert trainer.steps_done == 3
    shutil.rmtree(directory / "checkpoints")
    trainer.model.save(directory / name)
    state = {"optimizer": trainer.optimizer.state_dict(), "step": 3}
    torch.save(state, directory / name / "optimizer.pt")
    return directory


def assert_same_state(one: Trainer, other: Trainer) -> None:
    assert one.steps_done == other.steps_done
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    parameters = zip(one.model.parameters(), other.model.parameters(), strict=True)
    for mine, theirs in parameters:
        moments, expected = one.optimizer.state[mine], other.optimizer.state[theirs]
        assert moments.keys() == expected.keys()
        assert all(torch.equal(moments[key], expected[key]) for key in moments)


def test_model_and_optimizer_are_read_back(whole):
    again = continued(whole.directory)
    assert_same_state(again, whole)
    model = read_model(whole.directory, read_run(whole.directory).alphabet)
    assert torch.equal(model.head.weight, whole.model.head.weight)


def test_a_deleted_checkpoint_is_made_again_bit_by_bit(whole, tmp_path):
    shutil.rmtree(whole.directory / "checkpoints" / "step-0000006")
    again = continued(whole.directory)
    assert again.steps_done == 3
    again.run()
    assert_same_state(again, whole)


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.old"])  # .old: a save was cut short
def test_a_run_of_the_earlier_layout_goes_on_bit_by_bit(whole, tmp_path, name):
    directory = in_earlier_layout(whole.directory, tmp_path / "earlier", name)
    assert read_model(directory, read_run(whole.directory).alphabet).config == whole.model.config
    trainer = continued(directory)
    assert trainer.steps_done == 3
    trainer.run()
    assert_same_state(trainer, whole)
    assert_same_state(continued(directory), whole)  # the newer checkpoint is the one that counts


def test_damage_in_the_earlier_layout_is_named(whole, tmp_path):
    directory = in_earlier_layout(whole.directory, tmp_path / "earlier")
    path = directory / "checkpoint" / "optimizer.pt"
    intact = path.read_bytes()
    for damaged in (b"{", b"", intact[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"optimizer\.pt is damaged") as raised:
            continued(directory)
        assert "weights_only" not in str(raised.value)


def test_a_checkpoint_of_another_model_is_refused(whole):
    path = whole.directory / "run.json"
    path.write_text(path.read_text().replace('"feedforward": 32', '"feedforward": 64'))
    with pytest.raises(ValueError, match="step-0000006 does not fit the model of"):
        continued(whole.directory)


def test_a_run_without_checkpoint_is_at_step_zero(tmp_path):
    create_run(tmp_path, CONFIG, TEXT, TEXT[:200])
    trainer = continued(tmp_path)
    assert load_training_state(tmp_path, trainer.model, trainer.optimizer) == 0

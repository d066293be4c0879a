"""Checkpoints of training: the newest is found, damage is named, the earlier layout goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dtp_pooling.training.run_directory import create_run, read_model, read_run
from dtp_pooling.training.trainer import Trainer
from dtp_pooling.training.training_state import load_training_state


@pytest.fixture
def whole(tmp_path, small, train) -> Trainer:
    """A run that was trained to its end, with checkpoints of steps 3 and 6."""
    return train(tmp_path / "whole", small("gumbel"))


@pytest.fixture
def load(train) -> Callable[[Path], Trainer]:
    """The trainer of a run as it is on disk."""
    return lambda directory: train(directory, None, until=0)


def in_earlier_layout(
    load: Callable[[Path], Trainer], source: Path, directory: Path, name: str = "checkpoint"
) -> Path:
    """The run as it was at step 3, with one checkpoint that holds a pickled optimizer state."""
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("step-0000006"))
    trainer = load(directory)
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


def test_model_and_optimizer_are_read_back(whole, load):
    again = load(whole.directory)
    assert_same_state(again, whole)
    model = read_model(whole.directory, read_run(whole.directory).alphabet)
    assert torch.equal(model.head.weight, whole.model.head.weight)


def test_a_deleted_checkpoint_is_made_again_bit_by_bit(whole, tmp_path, load):
    shutil.rmtree(whole.directory / "checkpoints" / "step-0000006")
    again = load(whole.directory)
    assert again.steps_done == 3
    again.run()
    assert_same_state(again, whole)


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.old"])  # .old: a save was cut short
def test_a_run_of_the_earlier_layout_goes_on_bit_by_bit(whole, tmp_path, name, load):
    directory = in_earlier_layout(load, whole.directory, tmp_path / "earlier", name)
    assert read_model(directory, read_run(whole.directory).alphabet).config == whole.model.config
    trainer = load(directory)
    assert trainer.steps_done == 3
    trainer.run()
    assert_same_state(trainer, whole)
    assert_same_state(load(directory), whole)  # the newer checkpoint is the one that counts


def test_damage_in_the_earlier_layout_is_named(whole, tmp_path, load):
    directory = in_earlier_layout(load, whole.directory, tmp_path / "earlier")
    path = directory / "checkpoint" / "optimizer.pt"
    intact = path.read_bytes()
    for damaged in (b"{", b"", intact[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"optimizer\.pt is damaged") as raised:
            load(directory)
        assert "weights_only" not in str(raised.value)


def test_a_checkpoint_of_another_model_is_refused(whole, load):
    path = whole.directory / "run.json"
    path.write_text(path.read_text().replace('"feedforward": 32', '"feedforward": 64'))
    with pytest.raises(ValueError, match="step-0000006 does not fit the model of"):
        load(whole.directory)


def test_a_run_without_checkpoint_is_at_step_zero(tmp_path, load, small, text):
    create_run(tmp_path, small("gumbel"), text, text[:200])
    trainer = load(tmp_path)
    assert load_training_state(tmp_path, trainer.model, trainer.optimizer) == 0

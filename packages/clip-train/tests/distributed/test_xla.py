"""Training on XLA: equal to one plain process, and no program compiled twice.

Run by `nox -s xla`, in an environment with torch_xla; see `conftest.py`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch_xla.debug.metrics as metrics
from clip_models import ConfigError
from clip_train import Config, train
from clip_train.data.batches import Batch
from clip_train.engine.step_inputs import InputMaker
from clip_train.engine.trainer import Trainer
from clip_train.objectives.batch import StepInputs


def changed(config: Config, section: str, **values: object) -> Config:
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **values)}
    )


def losses(path: Path) -> list[float]:
    rows = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


def compilations() -> int:
    data = metrics.metric_data("CompileTime")
    return 0 if data is None else int(data[0])


@pytest.fixture
def recipe(vit_config: Config) -> Config:
    config = changed(vit_config, "loss", kind="infonce")
    config = changed(config, "log", every_steps=1)
    return changed(config, "optim", clip_norm=1.0, ema_decay=0.9)


def test_losses_equal_one_process_and_shapes_are_compiled_once(
    recipe: Config, tmp_path: Path
) -> None:
    shapes, compiled = set(), []
    step, inputs = Trainer.step, InputMaker.__call__

    def note_shapes(self: InputMaker, batch: Batch) -> StepInputs:
        found = inputs(self, batch)
        shapes.add((tuple(found.images.shape), tuple(found.tokens.shape)))
        return found

    def count(self: Trainer, batch: Batch) -> None:
        before = compilations()
        step(self, batch)
        compiled.append(compilations() - before)

    config = changed(recipe, "train", backend="xla")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InputMaker, "__call__", note_shapes)
        patch.setattr(Trainer, "step", count)
        train(config, tmp_path / "xla", progress=False)
    assert len(compiled) == 14
    assert sum(compiled) <= len(shapes) <= 3, (compiled, shapes)
    train(recipe, tmp_path / "plain", progress=False)
    assert losses(tmp_path / "xla") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


def test_shapes_that_follow_the_data_are_refused(recipe: Config, tmp_path: Path) -> None:
    config = changed(changed(recipe, "train", backend="xla"), "loss", kind="multi_positive")
    with pytest.raises(ConfigError, match="compiles every new shape; use 'infonce' or 'sigmoid'"):
        train(config, tmp_path / "run", progress=False)

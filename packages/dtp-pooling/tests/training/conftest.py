"""Small runs on a short text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dtp_pooling import BoundaryConfig, LanguageModelConfig
from dtp_pooling.training.config import TrainingConfig
from dtp_pooling.training.run_directory import create_run
from dtp_pooling.training.trainer import Trainer

TEXT = "the cat sat on the mat and the dog sat on the log while a cow ate the hay " * 12


@pytest.fixture(scope="session")
def text() -> str:
    return TEXT


@pytest.fixture(scope="session")
def small() -> Callable[..., TrainingConfig]:
    """The configuration of a run of six steps, by kind of boundary and other settings."""
    return _small


@pytest.fixture(scope="session")
def train() -> Callable[..., Trainer]:
    """The trainer of a run that is begun or resumed in a directory, at a step."""
    return _train


def _small(kind: str, **changes: object) -> TrainingConfig:
    model = LanguageModelConfig(
        width=16,
        num_heads=2,
        head_dim=8,
        feedforward=32,
        pre_layers=1,
        shortened_layers=1,
        post_layers=1,
        boundaries=BoundaryConfig(kind=kind),
    )
    values = {
        "model": model,
        "steps": 6,
        "batch_size": 2,
        "context": 32,
        "learning_rate": 1e-2,
        "warmup": 2,
        "log_every": 1,
        "evaluate_every": 3,
        "evaluation_window": 32,
        "evaluation_stride": 16,
        "unigram_vocabulary": 30,
    }
    return TrainingConfig(**(values | changes))


def _train(directory: Path, config: TrainingConfig, until: int | None = None) -> Trainer:
    if not (directory / "run.json").exists():
        create_run(directory, config, TEXT, TEXT[:200])
    trainer = Trainer(directory, TEXT, TEXT[:200], torch.device("cpu"), quiet=True)
    trainer.run(until)
    return trainer

"""Groups without decay, and the learning rate over a run."""

from __future__ import annotations

import math

import pytest
import torch
from clip_train.config import OptimConfig
from clip_train.optimizer import learning_rate, make_optimizer


def test_only_matrices_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    model.register_parameter("logit_scale", torch.nn.Parameter(torch.tensor(1.0)))
    decayed, plain = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert decayed["weight_decay"] == 0.3
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert plain["weight_decay"] == 0.0
    assert sorted(tuple(p.shape) for p in plain["params"]) == [(), (2,), (2,), (2,)]


def test_frozen_parameters_are_left_out() -> None:
    model = torch.nn.Linear(3, 2).requires_grad_(False)
    model.bias.requires_grad_(True)
    groups = make_optimizer(model, OptimConfig()).param_groups
    assert [len(group["params"]) for group in groups] == [0, 1]


def test_warmup_then_cosine() -> None:
    config = OptimConfig(lr=2.0, warmup_steps=4)
    rates = [learning_rate(config, step, 12) for step in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    expected = [1 + math.cos(math.pi * k / 8) for k in range(8)]
    assert rates[4:] == pytest.approx(expected)
    assert rates[-1] > 0


def test_constant_and_no_warmup() -> None:
    config = OptimConfig(lr=2.0, schedule="constant")
    assert [learning_rate(config, step, 3) for step in range(3)] == [2.0] * 3


def test_a_warmup_longer_than_the_run_only_warms_up() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=10)
    assert learning_rate(config, 2, 3) == pytest.approx(0.3)

"""Muon for convolutions against singular values and slow loops in float64; SGD against torch's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from clip_models import CLIP, CLIPConfig, ConfigError
from clip_models.config import TextConfig, WhitenedCNNConfig
from clip_train.config.training import BiasOptimConfig, ConvolutionOptimConfig, OptimConfig
from clip_train.optim.muon import ConvolutionMuon, orthogonalize
from clip_train.optim.optimizer import Optimizers
from torch import Tensor, nn


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def polynomial(values: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 7)])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_iteration_changes_singular_values_alone(shape: tuple[int, int], steps: int) -> None:
    matrix = random(*shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    expected = left * polynomial(values / (values.norm() + 1e-7), steps) @ right
    assert torch.allclose(orthogonalize(matrix, steps), expected, atol=1e-10)


def test_five_steps_are_nearly_orthogonal() -> None:
    values = torch.linalg.svdvals(orthogonalize(random(16, 64), 5))
    assert 0.65 < values.min() <= values.max() < 1.25
    assert torch.equal(orthogonalize(torch.zeros(3, 5), 3), torch.zeros(3, 5))


@pytest.mark.parametrize("keep_norm", [True, False])
def test_three_steps_equal_a_slow_loop(keep_norm: bool) -> None:
    start, rate, momentum = random(6, 3, 3, 3), 0.1, 0.6
    parameter = nn.Parameter(start.clone())
    optimizer = ConvolutionMuon(
        [{"params": [parameter]}], lr=rate, momentum=momentum, steps=3, keep_norm=keep_norm
    )
    weight, buffer = start.clone(), torch.zeros_like(start)
    for step in range(3):
        gradient = random(6, 3, 3, 3, seed=step + 1)
        parameter.grad = gradient.clone()
        optimizer.step()
        buffer = momentum * buffer + gradient
        direction = (gradient + momentum * buffer).reshape(6, 27)
        left, values, right = torch.linalg.svd(direction, full_matrices=False)
        update = left * polynomial(values / (values.norm() + 1e-7), 3) @ right
        if keep_norm:
            weight = weight * 6**0.5 / weight.norm()
        weight = weight - rate * update.reshape(6, 3, 3, 3)
    assert torch.allclose(parameter, weight, atol=1e-10)


def test_a_memory_format_changes_no_update() -> None:
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        parameter = nn.Parameter(random(4, 3, 3, 3).to(memory_format=layout))
        parameter.grad = random(4, 3, 3, 3, seed=1).to(memory_format=layout)
        ConvolutionMuon([{"params": [parameter]}], lr=0.1).step()
        found.append(parameter.detach())
    assert torch.allclose(*found, atol=1e-12)


def model() -> CLIP:
    torch.manual_seed(0)
    vision = WhitenedCNNConfig(image_size=16, widths=(4, 8))
    text = TextConfig(context_length=6, vocab_size=16, width=8, num_layers=1, num_heads=2)
    return CLIP(CLIPConfig(embed_dim=4, vision=vision, text=text))


OWN = OptimConfig(
    lr=0.01,
    convolutions=ConvolutionOptimConfig(name="muon", lr=0.2, momentum=0.5),
    biases=BiasOptimConfig(name="sgd", lr=0.05, momentum=0.8),
)


def names(optimizers: Optimizers, kind: type) -> set[str]:
    found = [one for one in optimizers.optimizers if type(one) is kind]
    groups = [group for one in found for group in one.param_groups]
    return {optimizers.names[p] for group in groups for p in group["params"]}


def test_each_kind_of_parameter_has_its_optimizer_and_rate() -> None:
    made = model()
    optimizers = Optimizers(made, OWN)
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    convolutions = names(optimizers, ConvolutionMuon)
    biases = names(optimizers, torch.optim.SGD)
    pairs = [f"visual.stages.{i}" for i in (0, 1)]
    assert convolutions == {f"{pair}.conv{k}.weight" for pair in pairs for k in (1, 2)}
    assert biases == {f"{pair}.norm{k}.bias" for pair in pairs for k in (1, 2)}
    assert names(optimizers, torch.optim.AdamW) == trained - convolutions - biases
    optimizers.set_rate(0.005)  # half of the peak
    for group in optimizers.groups:
        name = optimizers.names[group["params"][0]]
        expected = 0.1 if name in convolutions else 0.025 if name in biases else 0.005
        assert group["lr"] == pytest.approx(expected)
        assert group["weight_decay" if "weight_decay" in group else "keep_norm"] in (0.0, 0.2, True)


def test_biases_move_by_nesterov_momentum() -> None:
    made = model()
    optimizers = Optimizers(made, OWN)
    optimizers.set_rate(OWN.lr)
    bias, expected, buffer = made.visual.stages[0].norm1.bias, torch.zeros(4), torch.zeros(4)
    for step in range(3):
        gradient = random(4, seed=step).float()
        bias.grad = gradient
        optimizers.step()
        buffer = 0.8 * buffer + gradient
        expected = expected - 0.05 * (gradient + 0.8 * buffer)
    assert torch.allclose(bias, expected, atol=1e-6)


def test_making_the_state_changes_no_weight_and_no_later_step() -> None:
    weights = []
    for initialize in (False, True):
        made = model()
        optimizers = Optimizers(made, OWN)
        before = [p.detach().clone() for p in made.parameters()]
        if initialize:
            optimizers.initialize()
            assert all(map(torch.equal, before, [p.detach() for p in made.parameters()]))
        for p in made.parameters():
            p.grad = torch.linspace(-1, 1, p.numel()).view_as(p) if p.requires_grad else None
        optimizers.step()
        weights.append([p.detach() for p in made.parameters()])
        assert {key.rsplit("/", 1)[1] for key in optimizers.state()} == {
            *("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
        }
    assert all(map(torch.equal, *weights))


def test_without_names_every_group_is_the_one_it_was() -> None:
    plain, given = OptimConfig(lr=0.01), dataclasses.replace(OWN, convolutions=_off(0.2))
    given = dataclasses.replace(given, biases=BiasOptimConfig(lr=7.0))
    groups = [
        [(len(g["params"]), g["weight_decay"], g["rate_factor"]) for g in Optimizers(m, c).groups]
        for m, c in ((model(), plain), (model(), given))
    ]
    assert groups[0] == groups[1]
    assert {group[2] for group in groups[0]} == {1.0}


def _off(rate: float) -> ConvolutionOptimConfig:
    return ConvolutionOptimConfig(lr=rate)


@pytest.mark.parametrize(
    ("make", "values", "words"),
    [
        (ConvolutionOptimConfig, {"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        (ConvolutionOptimConfig, {"newton_schulz_steps": 0}, "newton_schulz_steps must be positi"),
        (ConvolutionOptimConfig, {"lr": 0.0}, "lr must be positive"),
        (BiasOptimConfig, {"momentum": 0.0}, r"momentum must be in \(0, 1\)"),
        (BiasOptimConfig, {"lr": -1.0}, "lr must be positive"),
    ],
)
def test_what_cannot_be(make: Any, values: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(**values)

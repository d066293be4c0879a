"""RangeAugment against its formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from clip_models import ConfigError
from clip_models.pooling import hashed_uniform
from clip_train.augment.range_augment import (
    LIMITS,
    RangeAugment,
    mse_to_psnr,
    psnr_loss,
    psnr_to_mse,
    target_mse,
)
from clip_train.config.data import RangeAugmentConfig
from clip_train.randomness import hashed_normal
from torch import Tensor

OPERATIONS = ["brightness", "contrast", "noise"]


def images(batch: int, side: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, side, side, generator=generator, dtype=torch.float64)


def keys(batch: int) -> Tensor:
    return torch.arange(batch) * 7919 + 5


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def strength(module: RangeAugment, name: str, uniform: Tensor) -> Tensor:
    """low + u (high - low) with sigmoid-squeezed ends, from the raw parameters."""
    limits, ends = LIMITS[name], module.ranges[name]
    low = torch.sigmoid(ends.low) * (limits.low[1] - limits.low[0]) + limits.low[0]
    high = torch.sigmoid(ends.high) * (limits.high[1] - limits.high[0]) + limits.high[0]
    return low + uniform * (high - low)


def augmented_one_by_one(module: RangeAugment, batch: Tensor, keys: Tensor) -> Tensor:
    """The definition, image by image."""
    result = []
    for image, key in zip(batch, keys, strict=True):
        drawn = hashed_uniform(key[None], 9)[0].reshape(3, 3)
        noise = hashed_normal(key[None], image.numel(), start=9).reshape(image.shape).double()
        for index in drawn[1].argsort().tolist():
            if drawn[0, index] >= 0.5:
                continue
            name = OPERATIONS[index]
            m = strength(module, name, drawn[2, index])
            if name == "brightness":
                image = image * m
            elif name == "contrast":
                image = (1 - m) * image.mean(dim=(1, 2), keepdim=True) + m * image
            else:
                image = image + noise * m
        result.append(image.clamp(0, 1))
    return torch.stack(result)


@pytest.mark.parametrize("batch", [1, 2, 13])
def test_equals_the_definition_with_gradients(batch: int) -> None:
    module = RangeAugment(RangeAugmentConfig()).double()
    clean = images(batch)
    for compute in (module, lambda x, k: augmented_one_by_one(module, x, k)):
        module.zero_grad()
        result = compute(clean, keys(batch))
        (result.square().sum() + psnr_loss(clean, result, 65.0)).backward()
        gradients = [p.grad if p.grad is not None else 0 * p for p in module.parameters()]
        if compute is module:
            expected, expected_gradients = result, gradients
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    for mine, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_gradients_of_all_six_ends() -> None:
    module = RangeAugment(RangeAugmentConfig()).double()
    clean = images(4, side=3) * 0.1 + 0.4  # away from the clamp
    parameters = list(module.parameters())
    assert len(parameters) == 6

    def loss(*values: Tensor) -> Tensor:
        state = dict(zip(dict(module.named_parameters()), values, strict=True))
        return torch.func.functional_call(module, state, (clean, keys(4)))

    inputs = tuple(p.detach().clone().requires_grad_() for p in parameters)
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("parity", [False, True])
def test_first_ranges(parity: bool) -> None:
    ranges = RangeAugment(RangeAugmentConfig(parity=parity)).effective_ranges()
    if parity:  # what 0.5 … 1.5 and 0 … 0.1 become through the sigmoid
        expected = {
            "brightness.low": 0.1 + 0.8 * sigmoid(0.5),
            "brightness.high": 1.1 + 8.9 * sigmoid(1.5),
            "contrast.low": 0.1 + 0.8 * sigmoid(0.5),
            "contrast.high": 1.1 + 8.9 * sigmoid(1.5),
            "noise.low": 5e-5 * sigmoid(0),
            "noise.high": 1e-4 + (1 - 1e-4) * sigmoid(0.1),
        }
        assert expected["brightness.low"] == pytest.approx(0.598, abs=5e-4)
        assert expected["brightness.high"] == pytest.approx(8.376, abs=5e-4)
        assert expected["noise.high"] == pytest.approx(0.525, abs=5e-4)
    else:
        expected = {
            "brightness.low": 0.5,
            "brightness.high": 1.5,
            "contrast.low": 0.5,
            "contrast.high": 1.5,
            "noise.low": 2.5e-5,
            "noise.high": 0.1,
        }
    assert ranges == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
def test_parity_touches_half_of_the_batch_with_each_operation(batch: int) -> None:
    for name in OPERATIONS:
        module = RangeAugment(RangeAugmentConfig(parity=True))
        for other in OPERATIONS:  # the others get the strength that changes nothing
            if other != name:
                module.ranges[other].forward = lambda uniform, other=other: torch.full(
                    (len(uniform), 1, 1, 1), 0.0 if other == "noise" else 1.0
                )
        clean = images(batch).float() * 0.1 + 0.4
        changed = (module(clean, keys(batch)) != clean).flatten(1).any(dim=1)
        assert int(changed.sum()) == max(1, batch // 2)


def test_an_image_does_not_depend_on_its_batch() -> None:
    module = RangeAugment(RangeAugmentConfig())
    clean = images(6).float()
    together = module(clean, keys(6))
    for row in range(6):
        alone = module(clean[row : row + 1], keys(6)[row : row + 1])
        assert torch.equal(alone[0], together[row])


def test_curriculum_values() -> None:
    config = RangeAugmentConfig()
    assert psnr_to_mse(40) == pytest.approx(6.5025)
    assert psnr_to_mse(20) == pytest.approx(650.25)
    total = 100
    for step in (0, 1, 50, 99, 100):
        expected = 650.25 + 0.5 * (6.5025 - 650.25) * (1 + math.cos(math.pi * step / 101))
        assert target_mse(config, step, total) == pytest.approx(expected, rel=1e-12)
    assert target_mse(config, 1000, total) == target_mse(config, 100, total)
    linear = RangeAugmentConfig(curriculum="linear")
    assert target_mse(linear, 25, total) == pytest.approx(6.5025 + 0.25 * (650.25 - 6.5025))
    fixed = RangeAugmentConfig(target_psnr=(30, 30))
    assert target_mse(fixed, 0, 9) == target_mse(fixed, 9, 9) == pytest.approx(65.025)


@pytest.mark.parametrize("psnr", [10.0, 20.0, 33.3])
def test_psnr_and_error_are_inverse(psnr: float) -> None:
    assert mse_to_psnr(psnr_to_mse(psnr)) == pytest.approx(psnr)


def test_loss_by_hand() -> None:
    clean = torch.zeros(2, 3, 4, 4)
    changed = clean.clone()
    changed[1] += 2 / 255  # squared error 4 against a target of 3.5: inside the quadratic part
    expected = ((3.5 - 0.5) + 0.5 * 0.5**2) / 2 / 65025
    assert psnr_loss(clean, changed, 3.5).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("psnr", [35.0, 15.0])
def test_training_the_ranges_moves_the_psnr_towards_the_target(psnr: float) -> None:
    config = RangeAugmentConfig(target_psnr=(psnr, psnr))
    module = RangeAugment(config)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    clean = images(64).float()

    def distance() -> float:
        fresh = keys(64) + 10**6
        with torch.no_grad():
            errors = ((module(clean, fresh) - clean) * 255).square().mean(dim=(1, 2, 3))
        return abs(math.log(errors.median().item() / psnr_to_mse(psnr)))

    before = distance()
    for step in range(60):
        augmented = module(clean, keys(64) + 1000 * step)
        loss = config.weight * psnr_loss(clean, augmented, psnr_to_mse(psnr))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert distance() < 0.8 * before


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="positive decibels"):
        RangeAugmentConfig(target_psnr=(40, 0))
    with pytest.raises(ConfigError, match="lr_scale"):
        RangeAugmentConfig(lr_scale=0)

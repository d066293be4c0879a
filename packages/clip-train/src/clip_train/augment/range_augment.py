"""RangeAugment: three image operations whose ranges of strength are learned (Mehta et al. 2022).

B batch, S image side. Images are floats in [0, 1]. The strength of an operation is drawn for each
image from [low, high]; low and high are parameters, trained by the task's loss through the images
and by a loss that draws the difference from the clean images to a target PSNR.

The three operations, of strength m, on half of the images each and in a random order:

    brightness   m x
    contrast     m x + (1 - m) mean(x), the mean over each channel of each image
    noise        x + m n with n standard normal

A parameter z stands for the end of a range by sigmoid(z) (largest - smallest) + smallest (the
original's soft clip).

Deviations from the original, all undone by `parity=True`: which images, their order of operations
and their noise follow from a key of each image and not from the batch (the original permutes the
batch, so that exactly half take part, and all processes draw the same); the first ranges are the
wanted ones (the original sends 0.5 … 1.5 through the sigmoid and begins at 0.60 … 8.38).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from clip_models.config import PreprocessConfig
from clip_models.pooling import hashed_uniform
from torch import Tensor, nn

from clip_train.config.data import RangeAugmentConfig
from clip_train.randomness import hashed_normal


class RangeLimits(NamedTuple):
    """Where the two ends of an operation's range may lie, and where they begin."""

    low: tuple[float, float]
    high: tuple[float, float]
    first: tuple[float, float]
    parity_raw: tuple[float, float]  # the original's first parameters, before the sigmoid


LIMITS = {
    "brightness": RangeLimits((0.1, 0.9), (1.1, 10.0), (0.5, 1.5), (0.5, 1.5)),
    "contrast": RangeLimits((0.1, 0.9), (1.1, 10.0), (0.5, 1.5), (0.5, 1.5)),
    "noise": RangeLimits((0.0, 5e-5), (1e-4, 1.0), (2.5e-5, 0.1), (0.0, 0.1)),
}


class Range(nn.Module):
    """A learned interval of strengths."""

    def __init__(self, limits: RangeLimits, *, parity: bool) -> None:
        super().__init__()
        self.limits = limits
        low, high = limits.parity_raw
        if not parity:
            low = _inverse_soft_clip(limits.first[0], limits.low)
            high = _inverse_soft_clip(limits.first[1], limits.high)
        self.low = nn.Parameter(torch.tensor(low))
        self.high = nn.Parameter(torch.tensor(high))

    def ends(self) -> tuple[Tensor, Tensor]:
        """The two ends of the interval, each a scalar."""
        return soft_clip(self.low, self.limits.low), soft_clip(self.high, self.limits.high)

    def forward(self, uniform: Tensor) -> Tensor:
        """Strengths (B, 1, 1, 1) for uniform numbers (B,)."""
        low, high = self.ends()
        return (low + uniform.to(low.dtype) * (high - low))[:, None, None, None]


class RangeAugment(nn.Module):
    """Augments a batch on its device, with gradients to the ranges."""

    def __init__(self, config: RangeAugmentConfig) -> None:
        super().__init__()
        self.config = config
        ranges = {name: Range(limits, parity=config.parity) for name, limits in LIMITS.items()}
        self.ranges: Mapping[str, Range] = nn.ModuleDict(ranges)  # type: ignore[assignment]

    def forward(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augmented images (B, 3, S, S) in [0, 1].

        Args:
            images: (B, 3, S, S) float in [0, 1].
            keys: (B,) int64 of the samples; parity mode takes the batch's randomness from the
                first.
        """
        choices = _parity_choices(keys) if self.config.parity else _choices(keys)
        # Every rank's images depend on all ranges, whatever was drawn, so that gradients come, and
        # are exchanged, in the same order on all ranks.
        ends = [end for module in self.ranges.values() for end in module.ends()]
        result = images + 0 * torch.stack(ends).sum().to(images.dtype)
        for place in range(len(LIMITS)):
            for index, name in enumerate(LIMITS):
                rows = (choices.chosen[:, index] & (choices.order[:, place] == index)).nonzero()
                rows = rows[:, 0]
                if not len(rows):
                    continue
                strength = self.ranges[name](choices.strength[rows, index])
                changed = _apply_operation(name, result[rows], strength, keys[rows])
                result = result.index_copy(0, rows, changed)
        return result.clamp(0, 1)

    def effective_ranges(self) -> dict[str, float]:
        """The ends of every range, for logging: `brightness.low`, `brightness.high`, …"""
        return {
            f"{name}.{end}": value.item()
            for name, module in self.ranges.items()
            for end, value in zip(("low", "high"), module.ends(), strict=True)
        }


class LearnedAugmentation(nn.Module):
    """The augmentation of a run: towers call it on their pixels, the trainer sets its step."""

    def __init__(
        self, config: RangeAugmentConfig, preprocess: PreprocessConfig, total_steps: int
    ) -> None:
        super().__init__()
        self.config = config
        self.total_steps = total_steps
        self.range_augment = RangeAugment(config)
        self.target_mse = target_mse(config, 0, total_steps)
        self.mean_mse: Tensor | None = None  # () of the last batch, for logging
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocess, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def set_step(self, step: int) -> None:
        """Move the target to that of a step, counted from 0."""
        self.target_mse = target_mse(self.config, step, self.total_steps)

    def forward(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented and normalized images, and the weighted loss () of the ranges.

        Args:
            images: (B, 3, S, S) float in [0, 1].
            keys: (B,) int64 of the samples.
        """
        augmented = self.range_augment(images, keys ^ _PURPOSE)
        self.mean_mse = ((augmented - images) * 255).detach().square().mean()
        loss = self.config.weight * psnr_loss(images, augmented, self.target_mse)
        return (augmented - self.mean) / self.std, loss

    def log_row(self) -> dict[str, float]:
        """Ends of the ranges, and the PSNR of the last batch beside its target."""
        row = {f"range/{name}": end for name, end in self.range_augment.effective_ranges().items()}
        row["range/target_psnr"] = mse_to_psnr(self.target_mse)
        if self.mean_mse is not None:
            row["range/psnr"] = mse_to_psnr(self.mean_mse.item())
        return row


class _Choices(NamedTuple):
    chosen: Tensor  # (B, 3) bool, whether the image takes part in the operation
    order: Tensor  # (B, 3) operation at each place
    strength: Tensor  # (B, 3) uniform


_PURPOSE = 0x52616E67  # so that towers which draw by the same keys draw other numbers
_DRAWN = 3 * len(LIMITS)  # numbers of a key before those of the noise


def _choices(keys: Tensor) -> _Choices:
    drawn = hashed_uniform(keys, _DRAWN).reshape(len(keys), 3, len(LIMITS))
    return _Choices(drawn[:, 0] < 0.5, drawn[:, 1].argsort(dim=1), drawn[:, 2])


def _parity_choices(keys: Tensor) -> _Choices:
    """One order for the batch, and exactly half of it (at least one image) for each operation."""
    batch, operations = len(keys), len(LIMITS)
    numbers = hashed_uniform(keys[:1], operations * (2 * batch + 1)).reshape(-1, operations)
    order = numbers[0].argsort().expand(batch, operations)
    ranks = numbers[1 : batch + 1].argsort(dim=0).argsort(dim=0)
    return _Choices(ranks < max(1, batch // 2), order, numbers[batch + 1 :])


def _apply_operation(name: str, images: Tensor, strength: Tensor, keys: Tensor) -> Tensor:
    if name == "brightness":
        return images * strength
    if name == "contrast":
        return strength * images + (1 - strength) * images.mean(dim=(2, 3), keepdim=True)
    noise = hashed_normal(keys, images[0].numel(), start=_DRAWN)
    return images + strength * noise.reshape(images.shape).to(images.dtype)


def soft_clip(value: Tensor, limits: tuple[float, float]) -> Tensor:
    """`value` squeezed into the open interval `limits` by the sigmoid."""
    low, high = limits
    return value.sigmoid() * (high - low) + low


def _inverse_soft_clip(wanted: float, limits: tuple[float, float]) -> float:
    share = (wanted - limits[0]) / (limits[1] - limits[0])
    return math.log(share / (1 - share))


def psnr_loss(images: Tensor, augmented: Tensor, target_mse: float) -> Tensor:
    """Smooth L1 distance of each image's squared error from the target, on the scale of [0, 1].

    mean_i smooth_l1(MSE_i, target) / 255^2 with MSE_i of pixels in [0, 255]; the target is for each
    image, also for those that no operation touched.

    Args:
        images: (B, 3, S, S) float in [0, 1].
        augmented: (B, 3, S, S) float in [0, 1].
        target_mse: Mean squared error of pixels in [0, 255].
    """
    errors = ((augmented - images) * 255).square().mean(dim=(1, 2, 3))  # (B,)
    return F.smooth_l1_loss(errors, torch.full_like(errors, target_mse)) / 255**2


def psnr_to_mse(psnr: float) -> float:
    """Mean squared error of pixels in [0, 255] at a PSNR in dB: 40 dB are 6.5025."""
    return 10 ** ((20 * math.log10(255) - psnr) / 10)


def mse_to_psnr(mse: float) -> float:
    """PSNR in dB of a mean squared error of pixels in [0, 255]; infinite for 0."""
    return math.inf if mse == 0 else 20 * math.log10(255) - 10 * math.log10(mse)


def target_mse(config: RangeAugmentConfig, step: int, total_steps: int) -> float:
    """The target at a step: moved from the first to the last in squared error, not in dB.

    cosine: last + (first - last) (1 + cos(pi step / (total_steps + 1))) / 2; linear: evenly over
    steps 0 … total_steps.
    """
    first, last = (psnr_to_mse(psnr) for psnr in config.target_psnr)
    step = min(step, total_steps)
    if config.curriculum == "linear":
        return first + (last - first) * step / total_steps
    return last + (first - last) * (1 + math.cos(math.pi * step / (total_steps + 1))) / 2

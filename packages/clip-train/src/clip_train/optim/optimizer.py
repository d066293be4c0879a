"""Optimizers with their parameter groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clip_train.augment.range_augment import LearnedAugmentation
from clip_train.config.training import OptimConfig
from clip_train.model.tower_groups import tower_groups
from clip_train.optim.muon import ConvolutionMuon


class Optimizers:
    """AdamW for all parameters, or Muon for the matrices inside blocks and AdamW for the rest.

    Convolutions, and biases and norms of convolutional towers, may have optimizers of their own.
    Every group has a `rate_factor`: the layer-wise decay of its depth, times the rate of its
    optimizer relative to `optim.lr`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: OptimConfig,
        augmentation: LearnedAugmentation | None = None,
        *,
        on_xla: bool = False,
    ) -> None:
        """Only tensors of two or more dimensions decay (Radford et al. 2021, section 2.5).

        Args:
            model: Its parameters that require a gradient are optimized.
            config: Which optimizer, and its numbers.
            augmentation: Trained by AdamW too, at `augment.range.lr_scale` times the rate.
            on_xla: Keep rate and step on the device, so that no new number is a new program.
        """
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self.rate = 0.0  # of groups with a factor of 1
        by_kind = _group_parameters(model, config)
        if augmentation is not None:
            scale = augmentation.config.lr_scale
            for name, parameter in augmentation.named_parameters():
                self.names[parameter] = f"augmentation.{name}"
                by_kind.setdefault(_GroupKind("adamw", False, scale), []).append(parameter)
        self.optimizers: list[torch.optim.Optimizer] = []
        for name in ("adamw", "muon", "convolutions", "biases"):
            groups = [
                {
                    "params": parameters,
                    "weight_decay": config.weight_decay if kind.decays else 0.0,
                    "rate_factor": kind.rate_factor,
                }
                for kind, parameters in by_kind.items()
                if kind.optimizer == name
            ]
            if groups:
                self.optimizers.append(_make_optimizer(name, groups, config, on_xla=on_xla))

    @property
    def groups(self) -> Iterator[dict[str, Any]]:
        """Parameter groups of all optimizers."""
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step, times each group's factor."""
        self.rate = rate
        for group in self.groups:
            value = rate * group["rate_factor"]
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(torch.tensor(value))
            else:
                group["lr"] = value

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Update all parameters that have a gradient."""
        for optimizer in self.optimizers:
            optimizer.step()

    def initialize(self) -> None:
        """Make the state that the first step would make, and change nothing else."""
        for optimizer in self.optimizers:
            before = [dict(group) for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group |= {"weight_decay": 0.0, "keep_norm": False}  # with no gradient and no decay,
                for parameter in group["params"]:  # no weight moves
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            for group, values in zip(optimizer.param_groups, before, strict=True):
                group.clear()
                group |= values
            for state in optimizer.state.values():
                if "step" in state:
                    state["step"].zero_()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """All moments and counters as `parameter name/key`."""
        return {
            f"{self.names[parameter]}/{key}": value
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }


class _GroupKind(NamedTuple):
    """What parameters of one group have in common."""

    optimizer: str
    decays: bool
    rate_factor: float


def _group_parameters(
    model: nn.Module, config: OptimConfig
) -> dict[_GroupKind, list[nn.Parameter]]:
    """The trained parameters of a model by the kind of their group."""
    factors = layer_factors(model, config)
    own = {"convolutions": config.convolutions.lr, "biases": config.biases.lr}
    groups: dict[_GroupKind, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            optimizer, factor = _choose_optimizer(name, parameter, config), factors.get(name, 1.0)
            if optimizer in own:
                factor *= own[optimizer] / config.lr
            decays = parameter.ndim >= 2 and optimizer not in own
            groups.setdefault(_GroupKind(optimizer, decays, factor), []).append(parameter)
    return groups


def _choose_optimizer(name: str, parameter: nn.Parameter, config: OptimConfig) -> str:
    """Which optimizer trains a parameter."""
    if config.convolutions.name and name.startswith("visual.") and parameter.ndim == 4:
        return "convolutions"
    is_convolutional = not name.startswith("visual.transformer.")
    is_vector = name.startswith("visual.") and parameter.ndim == 1
    if config.biases.name and is_vector and is_convolutional:
        return "biases"
    is_matrix = ".resblocks." in name and parameter.ndim == 2
    return "muon" if config.name == "muon" and is_matrix else "adamw"


def _make_optimizer(
    kind: str, groups: list[dict[str, Any]], config: OptimConfig, *, on_xla: bool
) -> torch.optim.Optimizer:
    if kind == "convolutions":
        own = config.convolutions
        return ConvolutionMuon(
            groups,
            lr=own.lr,
            momentum=own.momentum,
            steps=own.newton_schulz_steps,
            keep_norm=own.keep_norm,
        )
    if kind == "biases":
        return torch.optim.SGD(
            groups, lr=config.biases.lr, momentum=config.biases.momentum, nesterov=True
        )
    if kind == "muon":
        return torch.optim.Muon(
            groups, lr=config.lr, momentum=config.betas[0], adjust_lr_fn="match_rms_adamw"
        )
    options: dict[str, Any] = {"lr": config.lr, "fused": True}
    if on_xla:
        rate = torch.tensor(config.lr, device=groups[0]["params"][0].device)
        options = {"lr": rate, "capturable": True, "foreach": False}
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, **options)


def layer_factors(model: nn.Module, config: OptimConfig) -> dict[str, float]:
    """Layer-wise decay: `decay ** groups after it` of each parameter's group."""
    factors = {}
    for tower, decay in (("image", config.image_layer_decay), ("text", config.text_layer_decay)):
        groups = tower_groups(model)[tower]
        for depth, names in enumerate(groups):
            factors.update(dict.fromkeys(names, decay ** (len(groups) - 1 - depth)))
    return factors

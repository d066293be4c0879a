"""Optimizers with their parameter groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clip_train.augment.range_augment import LearnedAugmentation
from clip_train.config.training import OptimConfig
from clip_train.model.tower_groups import tower_groups


class Optimizers:
    """AdamW for all parameters, or Muon for the matrices inside blocks and AdamW for the rest.

    Every group has a `rate_factor`, the layer-wise decay of its depth.
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
        for name in ("adamw", "muon"):
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
            decays = [group["weight_decay"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.0  # with no gradient and no decay, no weight moves
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            for group, decay in zip(optimizer.param_groups, decays, strict=True):
                group["weight_decay"] = decay
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
    groups: dict[_GroupKind, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_muon = config.name == "muon" and ".resblocks." in name and parameter.ndim == 2
            kind = _GroupKind(
                "muon" if is_muon else "adamw", parameter.ndim >= 2, factors.get(name, 1.0)
            )
            groups.setdefault(kind, []).append(parameter)
    return groups


def _make_optimizer(
    kind: str, groups: list[dict[str, Any]], config: OptimConfig, *, on_xla: bool
) -> torch.optim.Optimizer:
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

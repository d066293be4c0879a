"""AdamW with the field's no-decay groups, and the learning rate of a step."""

from __future__ import annotations

import math

import torch
from torch import nn

from clip_train.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); only tensors of two or more dimensions decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """The rate of step `step`, counted from 0: linear warmup, then the schedule.

    The first step of a warmup of W steps has 1/W of the peak; a cosine ends just above zero at the
    last step, so that no step is wasted.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))

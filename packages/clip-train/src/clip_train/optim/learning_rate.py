"""The learning rate of a step: warmup, schedule, cooldown."""

from __future__ import annotations

import math

from clip_train.config.training import OptimConfig


def learning_rate(config: OptimConfig, step: int, total_steps: int, batch_size: int) -> float:
    """The rate of step `step`, counted from 0: linear warmup from `first_lr`, then the schedule.

    The first step of a warmup of W steps is 1/W of the way; a decay ends just above `final_lr` at
    the last step, so that no step is wasted, and a cooldown of C steps has 1/C of the peak there.

    Args:
        config: Peak, schedule and lengths.
        step: The step.
        total_steps: Steps of the run.
        batch_size: Samples of a step, by which lengths in samples and rules of the rate go.
    """
    ratio = batch_size / config.lr_batch_size
    peak = config.lr * {"fixed": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.lr_rule]
    warmup = resolve_steps(config.warmup_steps, config.warmup_samples, batch_size)
    if step < warmup:
        return config.first_lr + (peak - config.first_lr) * (step + 1) / warmup
    if config.schedule == "constant":
        return peak
    if config.schedule == "constant_cooldown":
        cooldown = resolve_steps(config.cooldown_steps, config.cooldown_samples, batch_size)
        return peak * min(1.0, (total_steps - step) / max(1, cooldown))
    progress = (step - warmup) / max(1, total_steps - warmup)
    share = 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "linear":
        share = 1 - progress
    return config.final_lr + (peak - config.final_lr) * share


def resolve_steps(steps: int, samples: int | None, batch_size: int) -> int:
    """A length given in samples, rounded up to whole steps, or else in steps."""
    return steps if samples is None else -(-samples // batch_size)

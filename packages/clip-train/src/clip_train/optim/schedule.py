"""The learning rate schedule against the length of the run: in steps, in words, and what is odd."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from clip_train.config.training import OptimConfig
from clip_train.optim.learning_rate import learning_rate, resolve_steps


def in_steps(
    config: OptimConfig,
    batch_size: int,
    steps_in_epochs: Callable[[float], int],
    total_steps: int,
) -> OptimConfig:
    """The config with warmup and cooldown in steps, whatever their unit.

    Args:
        config: Lengths in samples, epochs or steps, in this order of precedence.
        batch_size: Samples of a step.
        steps_in_epochs: Steps of a number of epochs.
        total_steps: Steps of the run, by which a warmup as a share of it goes before all others.
    """
    found: dict[str, int | None] = {}
    for part in ("warmup", "cooldown"):
        steps, samples, epochs = (
            getattr(config, f"{part}_{unit}") for unit in ("steps", "samples", "epochs")
        )
        if samples is None and epochs is not None:
            steps = steps_in_epochs(epochs)
        found |= {f"{part}_steps": resolve_steps(steps, samples, batch_size)}
        found |= {f"{part}_samples": None, f"{part}_epochs": None}
    if config.warmup_share is not None:
        found |= {"warmup_steps": round(config.warmup_share * total_steps), "warmup_share": None}
    return replace(config, **found)  # type: ignore[arg-type]


def describe_schedule(config: OptimConfig, total_steps: int, batch_size: int) -> str:
    """One line: the rate at the beginning, its peak and its end, each with its steps.

    Args:
        config: Lengths in steps.
        total_steps: Steps of the run.
        batch_size: Samples of a step.
    """
    peak = _peak(config, batch_size)
    warmup, cooldown = config.warmup_steps, config.cooldown_steps
    parts = [f"{_steps(warmup)} of warmup from {config.first_lr:g} to {peak:g}"] if warmup else []
    last = learning_rate(config, max(0, total_steps - 1), total_steps, batch_size)
    if config.schedule in ("cosine", "linear"):
        ends = f"from {peak:g} to {config.final_lr:g} until step {total_steps:,}"
        parts.append(f"{config.schedule} {ends}")
    elif config.schedule == "constant":
        parts.append(f"constant at {peak:g} until step {total_steps:,}")
    else:
        parts.append(f"constant at {peak:g} until step {max(0, total_steps - cooldown):,}")
        parts.append(f"{_steps(cooldown)} of cooldown to 0")
    return f"{', '.join(parts)}; the last step has {last:.3g}"


def check_schedule(config: OptimConfig, total_steps: int, batch_size: int) -> Iterator[str]:
    """What is odd about the schedule of a run of `total_steps`, one sentence each."""
    warmup, peak = config.warmup_steps, _peak(config, batch_size)
    cooldown = config.cooldown_steps if config.schedule == "constant_cooldown" else 0
    length = f"the run has {_steps(total_steps)}"
    if warmup and warmup >= total_steps:
        last = learning_rate(config, total_steps - 1, total_steps, batch_size)
        yield (
            f"warmup of {_steps(warmup)}, and {length}: the learning rate ends at {last:.3g}, "
            f"{100 * last / peak:.3g} % of its peak, and never falls; shorten "
            "optim.warmup_steps, or train longer"
        )
    if cooldown > total_steps:
        first = learning_rate(replace(config, warmup_steps=0), 0, total_steps, batch_size)
        yield (
            f"cooldown of {_steps(cooldown)}, and {length}: the learning rate begins at "
            f"{first:.3g}, {100 * first / peak:.3g} % of its peak; shorten optim.cooldown_steps, "
            "or train longer"
        )
    elif cooldown and warmup < total_steps < warmup + cooldown:
        yield (
            f"cooldown of {_steps(cooldown)} begins before the warmup of {_steps(warmup)} ends, "
            f"and {length}: the learning rate never has its peak, {peak:g}; shorten one of them"
        )


def describe_extension(
    config: OptimConfig, step: int, old: tuple[OptimConfig, int], total_steps: int, batch_size: int
) -> str:
    """What the schedule does where a run is continued with another length.

    Args:
        config: The schedule from now on.
        step: Steps done.
        old: The schedule until now, and the length that it had.
        total_steps: The new length.
        batch_size: Samples of a step.
    """
    old_config, old_total = old
    before = learning_rate(old_config, max(0, min(step, old_total) - 1), old_total, batch_size)
    after = learning_rate(config, step, total_steps, batch_size)
    return (
        f"the run goes on from step {step:,} to {total_steps:,}, it was planned to end at "
        f"{old_total:,}; the schedule is that of {_steps(total_steps)} from the beginning "
        f"({describe_schedule(config, total_steps, batch_size)}), so that the learning rate goes "
        f"from {before:.3g} to {after:.3g} at this step"
    )


def _peak(config: OptimConfig, batch_size: int) -> float:
    ratio = batch_size / config.lr_batch_size
    return config.lr * {"fixed": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.lr_rule]


def _steps(number: int) -> str:
    return f"{number:,} step{'' if number == 1 else 's'}"

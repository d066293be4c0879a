"""Cost of presets on given accelerators as a table, for `clip-train plan`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from clip_models import CLIPConfig, ConfigError
from clip_models.config import ViTConfig, require

from clip_train.config.presets import load_config
from clip_train.config.run import Config
from clip_train.cost.assumptions import NATURAL_CAPTION, Accelerators
from clip_train.cost.flops import PairCost, RunCost, pair_cost, run_cost
from clip_train.model.loading import resolve_model
from clip_train.plan.batch_schedule import SizedBatch, size_table


class PlannedRun(NamedTuple):
    """A preset and its cost."""

    name: str
    config: Config
    pair: PairCost
    run: RunCost
    activation_bytes: float  # of one accelerator's micro-batch


def plan_run(
    name: str,
    accelerators: Accelerators,
    *,
    caption_tokens: int = NATURAL_CAPTION,
    num_samples: int | None = None,
) -> PlannedRun:
    """The cost of one preset or TOML file.

    Each image size is drawn equally often, before any growth; with more than one of
    `train.grad_accum_steps` embeddings are computed twice.

    Args:
        name: Name of a preset, or path of a TOML file.
        accelerators: Devices that it would run on.
        caption_tokens: Tokens of an average caption, truncated to the model's context length.
        num_samples: Size of the data set, for lengths in epochs.

    Raises:
        ConfigError: The config or a number is wrong, or its length needs `num_samples`.
    """
    for key, number in (("caption_tokens", caption_tokens), ("num_samples", num_samples)):
        require(number is None or number >= 1, f"{key} must be 1 or more, got {number}")
    config = load_config(name)
    model, train = resolve_model(config.model), config.train
    batches = _size_table(config, model, min(caption_tokens, model.text.context_length))
    cost_of = {
        size: pair_cost(
            model,
            image_size=size,
            caption_tokens=min(caption_tokens, model.text.context_length),
            gradient_checkpointing=train.gradient_checkpointing,
        )
        for size in dict.fromkeys(batch.image_size for batch in batches)
    }
    costs = [cost_of[batch.image_size] for batch in batches]
    cost = _mean(costs, batches, twice=train.grad_accum_steps > 1)
    pairs = _pairs(config, fmean(batch.batch_size for batch in batches), num_samples)
    kept = max(c.activation_bytes * b.batch_size for c, b in zip(costs, batches, strict=True))
    size = 1.0 if train.precision in ("auto", "fp32") else 0.5
    return PlannedRun(
        name,
        config,
        cost,
        run_cost(model, cost, pairs=pairs, accelerators=accelerators),
        kept / accelerators.number / train.grad_accum_steps * size,
    )


def _size_table(config: Config, model: CLIPConfig, caption_tokens: int) -> list[SizedBatch]:
    """Image sizes with their batches; of a token budget, squares of each number of patches.

    A budget's row stands in the table as often as its share says, in hundredths.
    """
    data, vision = config.data, model.vision
    if data.token_budget is None or not isinstance(vision, ViTConfig):
        return size_table(config.train.batch_size, vision.image_side, data.variable_sizes)
    lengths = data.sequence_lengths or (vision.grid[0] * vision.grid[1],)
    shares = data.sequence_shares or (1.0,) * len(lengths)
    rows = list[SizedBatch]()
    for length, share in zip(lengths, shares, strict=True):
        side = max(1, round(length**0.5)) * vision.patch_size
        each = length + vision.class_token + data.caption_weight * caption_tokens
        batch = SizedBatch(side, max(1, int(data.token_budget // each)))
        rows += [batch] * max(1, round(100 * share / sum(shares)))
    return rows


def cost_record(run: PlannedRun) -> dict[str, Any]:
    """The numbers of a row, in units of one: bytes, FLOPs, tokens, pairs."""
    return {
        "name": run.name,
        **run.run._asdict(),
        "pairs": run.run.training_flops / run.pair.training_flops,
        "activation_bytes": run.activation_bytes,
        "pair": run.pair._asdict(),
    }


def cost_table(runs: Sequence[PlannedRun], accelerators: Accelerators) -> str:
    """One line per run, and their sum."""
    columns = [_columns(run, accelerators) for run in runs]
    rows = [list(columns[0]), *(list(row.values()) for row in columns)]
    if len(runs) > 1:
        costs = [run.run for run in runs]
        days, hours = sum(c.days for c in costs), sum(c.accelerator_hours for c in costs)
        price = sum(c.price for c in costs)
        rows.append(["all", *[""] * 7, f"{days:.2f}", f"{hours:,.0f}", f"{price:,.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(
        [
            f"{accelerators.number} accelerators of {accelerators.peak_tflops:g} TFLOP/s at "
            f"{accelerators.utilization:.0%} utilization, {accelerators.price_per_hour:g} per hour",
            *lines,
            "FLOPs are counted on the model (a multiply and an add are two). GB are those of one "
            "accelerator with unsharded weights:",
            "state = fp32 weights, gradients and AdamW moments; activations = of one "
            "micro-batch, for the backward pass; * exceeds its memory.",
        ]
    )


def _columns(run: PlannedRun, accelerators: Accelerators) -> dict[str, str]:
    """The row of a run by the headers of its columns."""
    pairs = run.run.training_flops / run.pair.training_flops
    state, activations = run.run.state_bytes / 1e9, run.activation_bytes / 1e9
    mark = "*" if state + activations > accelerators.memory_gb else ""
    return {
        "preset": run.name,
        "params M": f"{run.run.parameters / 1e6:.1f}",
        "image tok": str(run.pair.image_tokens or "-"),
        "text tok": str(run.pair.text_tokens),
        "GFLOP/pair": f"{run.pair.training_flops / 1e9:.1f}",
        "pairs M": f"{pairs / 1e6:,.1f}",
        "state GB": f"{state:.1f}",
        "activations GB": f"{activations:.1f}{mark}",
        "days": f"{run.run.days:.2f}",
        "hours": f"{run.run.accelerator_hours:,.0f}",
        "price": f"{run.run.price:,.0f}",
    }


def _mean(costs: Sequence[PairCost], batches: Sequence[SizedBatch], *, twice: bool) -> PairCost:
    """Average cost of a pair; `twice` if both towers run forward once more."""
    weights = [batch.batch_size for batch in batches]
    tokens, _, *others = (fmean(column, weights) for column in zip(*costs, strict=True))
    mean = PairCost(round(tokens), costs[0].text_tokens, *others)
    again = mean.image_flops + mean.text_flops if twice else 0.0
    return mean._replace(training_flops=mean.training_flops + again)


def _pairs(config: Config, batch: float, num_samples: int | None) -> float:
    """Number of pairs of a run; `batch` is the average batch size over image sizes."""
    train = config.train
    if train.steps is not None:
        return train.steps * batch
    if train.samples is not None:
        return train.samples / train.batch_size * batch
    if train.epochs is None:
        raise ConfigError("the run has no length; set train.steps or train.samples")
    if num_samples is None:
        raise ConfigError(
            f"the run is {train.epochs:g} epochs long; give its data's size with --num-samples N"
        )
    return train.epochs * num_samples

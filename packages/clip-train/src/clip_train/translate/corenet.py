"""Keys of CoreNet 0.1's recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_train.translate.rules import (
    AUTOMATIC,
    PRECISIONS,
    Rule,
    image_size,
    look_up,
    to_choice,
    to_key,
    to_values,
    used_with,
)

_VARIABLE = "variable_batch_sampler"


def _variable(key: str) -> Rule:
    """A number that only CoreNet's variable batch sampler uses."""
    return lambda value, values: (
        {key: int(value)}
        if str(values.get("sampler.name")).startswith(_VARIABLE)
        else f"used by {_VARIABLE} only"
    )


def _sampler(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    name = look_up(value.removesuffix("_ddp"), {_VARIABLE: "variable", "batch_sampler": ""})
    number = int(values.get("sampler.vbs.max_n_scales", 5))
    return {"data.variable_sizes.num_sizes": number} if name else {}


def _ema(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"optim.ema_decay": 1 - float(values.get("ema.momentum", 1e-4))} if value else {}


def _mixed_precision(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    name = values.get("common.mixed_precision_dtype", "float16") if value else "float32"
    return {"train.precision": look_up(name, PRECISIONS)}


CORENET: Mapping[str, Rule] = {
    "dataset.train_batch_size0": to_key("train.batch_size", int),
    "dataset.workers": lambda value, _: {} if int(value) < 0 else {"data.workers": int(value)},
    "sampler.name": _sampler,
    "sampler.bs.crop_size_width": image_size,
    "sampler.vbs.crop_size_width": _variable("model.vision.image_size"),
    "sampler.vbs.max_n_scales": _variable("data.variable_sizes.num_sizes"),
    "sampler.vbs.min_crop_size_width": _variable("data.variable_sizes.min_size"),
    "sampler.vbs.max_crop_size_width": _variable("data.variable_sizes.max_size"),
    "sampler.vbs.check_scale": _variable("data.variable_sizes.divisor"),
    "image_augmentation.random_resized_crop.enable": lambda value, _: (
        {"augment.kind": "random_resized_crop"} if value else {}
    ),
    "image_augmentation.random_resized_crop.scale": to_key("augment.scale", list),
    "loss.category": to_values(loss__kind="infonce"),
    "optim.name": to_choice("optim.name", {"adamw": "adamw"}),
    "optim.weight_decay": to_key("optim.weight_decay", float),
    "optim.adamw.beta1": to_key("optim.betas.0", float),
    "optim.adamw.beta2": to_key("optim.betas.1", float),
    "optim.adamw.eps": to_key("optim.eps", float),
    "optim.no_decay_bn_filter_bias": AUTOMATIC,
    "scheduler.name": to_choice("optim.schedule", {"cosine": "cosine"}),
    "scheduler.max_iterations": to_key("train.steps", int),
    "scheduler.max_epochs": to_key("train.epochs", float),
    "scheduler.warmup_iterations": to_key("optim.warmup_steps", int),
    "scheduler.warmup_init_lr": to_key("optim.first_lr", float),
    "scheduler.cosine.max_lr": to_key("optim.lr", float),
    "scheduler.cosine.min_lr": to_key("optim.final_lr", float),
    "scheduler.is_iteration_based": AUTOMATIC,
    "ema.enable": _ema,
    "ema.momentum": used_with("ema.enable"),
    "common.mixed_precision": _mixed_precision,
    "common.mixed_precision_dtype": used_with("common.mixed_precision"),
    "common.grad_clip": to_key("optim.clip_norm", float),
    "common.accum_freq": to_key("train.grad_accum_steps", int),
    "common.seed": to_key("train.seed", int),
    "common.log_freq": to_key("log.every_steps", int),
    "common.save_interval_freq": to_key("checkpoint.every_steps", int),
    "common.auto_resume": "`clip-train resume DIR`",
    "ddp.enable": "start the run with torchrun",
}

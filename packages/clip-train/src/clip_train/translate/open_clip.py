"""Flags of open_clip 3.3 and of CLIPA (torch), which extends it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clip_train.translate.rules import (
    AUTOMATIC,
    NOTE,
    PRECISIONS,
    Rule,
    image_size,
    look_up,
    to_choice,
    to_key,
    to_values,
    used_with,
)

_ALWAYS_EXACT = "the gradient is always that of the whole batch"
_STEPS_ONLY = "counts epochs; set eval.every_steps or eval.every_samples"
_FORMATS = {"webdataset": "wds", "csv": "csv", "tfrecord": "tfrecord", "auto": ""}
_SCHEDULES = {"cosine": "cosine", "const": "constant", "const-cooldown": "constant_cooldown"}
_AUGMENTATIONS = {
    "scale": ("augment.scale", 2),
    "color_jitter": ("augment.color_jitter", 4),
    "color_jitter_prob": ("augment.color_jitter_probability", 0),
    "gray_scale_prob": ("augment.grayscale_probability", 0),
}


def _source(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """One or several sources, `A::B`."""
    kind = look_up(values.get("dataset-type", "auto"), _FORMATS)
    kind = kind or ("csv" if value.endswith((".csv", ".tsv")) else "wds")
    return {"data.train": "::".join(f"{kind}:{part}" for part in value.split("::"))}


def _model(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A model, with AdamW's defaults and CLIPA's caption reduction, which follow from its name."""
    found: dict[str, Any] = {"model.name": value}
    if "vit" not in value.lower():
        defaults = {"beta2": ("optim.betas.1", 0.999), "eps": ("optim.eps", 1e-8)}
        found |= dict(pair for flag, pair in defaults.items() if flag not in values)
    if "Syntax" in value:
        found["tokenizer.reduction"] = "syntax"
    return found


def _augmentation(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`key=value` pairs of open_clip's --aug-cfg."""
    found: dict[str, Any] = {"augment.kind": "random_resized_crop"}
    left = []
    for name, text in re.findall(r"(\w+)=(\([^)]*\)|\S+)", value):
        try:
            key, length = _AUGMENTATIONS[name]
            numbers = [float(part) for part in text.strip("()").split(",")]
            if len(numbers) != max(1, length):
                raise ValueError
        except (KeyError, ValueError):
            left.append(f"{name}={text}")
            continue
        found[key] = numbers if length else numbers[0]
    if "augment.color_jitter" in found:
        found.setdefault("augment.color_jitter_probability", 0.0)
    if left:
        found[NOTE] = f"no counterpart of {', '.join(left)}"
    return found


OPEN_CLIP: Mapping[str, Rule] = {
    "train-data": _source,
    "dataset-type": used_with("train-data"),
    "imagenet-val": to_key("data.val", lambda value: f"imagefolder:{value}"),
    "csv-img-key": to_key("data.image_key"),
    "csv-caption-key": to_key("data.caption_key"),
    "train-num-samples": "samples are counted in the data",
    "workers": to_key("data.workers", int),
    "model": _model,
    "pretrained": to_key("model.pretrained"),
    "force-image-size": image_size,
    "force-patch-dropout": lambda value, _: {
        "model.vision.patch_reduction.kind": "random",
        "model.vision.patch_reduction.keep_ratio": 1 - float(value),
    },
    "lock-image": to_values(model__lock_image=True),
    "lock-image-unlocked-groups": to_key("model.unlocked_image_groups", int),
    "lock-text": to_values(model__lock_text=True),
    "lock-text-unlocked-layers": to_key("model.unlocked_text_groups", int),
    "aug-cfg": _augmentation,
    "precision": to_choice("train.precision", PRECISIONS),
    "batch-size": to_key("train.batch_size", int),
    "accum-freq": to_key("train.grad_accum_steps", int),
    "epochs": to_key("train.epochs", float),
    "seed": to_key("train.seed", int),
    "device": to_key("train.device"),
    "grad-checkpointing": to_values(train__gradient_checkpointing=True),
    "torchcompile": to_values(train__compile="inductor"),
    "fsdp": to_values(train__backend="fsdp2"),
    "lr": to_key("optim.lr", float),
    "beta1": to_key("optim.betas.0", float),
    "beta2": to_key("optim.betas.1", float),
    "eps": to_key("optim.eps", float),
    "wd": to_key("optim.weight_decay", float),
    "warmup": to_key("optim.warmup_steps", int),
    "lr-scheduler": to_choice("optim.schedule", _SCHEDULES),
    "lr-cooldown-end": "a cooldown ends at zero",
    "lr-cooldown-power": "a cooldown is linear",
    "epochs-cooldown": "counts epochs; set optim.cooldown_steps or optim.cooldown_samples",
    "skip-scheduler": to_values(optim__schedule="constant"),
    "image-layer-decay": to_key("optim.image_layer_decay", float),
    "text-layer-decay": to_key("optim.text_layer_decay", float),
    "grad-clip-norm": to_key("optim.clip_norm", float),
    "opt": "AdamW is the default, and torch's Muon is optim.name = 'muon'",
    "loss": to_key("loss.kind"),  # not one of their flags; carries the default loss
    "local-loss": _ALWAYS_EXACT,
    "gather-with-grad": _ALWAYS_EXACT,
    "loss-dist-impl": _ALWAYS_EXACT,
    "siglip": to_values(loss__kind="sigmoid"),
    "distill-pretrained": to_key("loss.teacher"),
    "distill-model": to_key("loss.teacher_name"),
    "use-bn-sync": "BatchNorm layers are always synchronized",
    "ddp-static-graph": AUTOMATIC,
    "save-frequency": "counts epochs; set checkpoint.every_steps",
    "save-most-recent": to_values(checkpoint__keep_last=1),
    "delete-previous-checkpoint": to_values(checkpoint__keep_last=1),
    "remote-sync": to_key("checkpoint.directory"),
    "resume": "`clip-train resume DIR`",
    "logs": "--out DIR",
    "name": "--out DIR",
    "log-every-n-steps": to_key("log.every_steps", int),
    "report-to": lambda value, _: {"log.wandb_project": "open-clip"} if "wandb" in value else {},
    "wandb-project-name": to_key("log.wandb_project"),
    "zeroshot-frequency": _STEPS_ONLY,
    "val-frequency": _STEPS_ONLY,
    "val-data": "validation is zero-shot classification on data.val",
}

CLIPA: Mapping[str, Rule] = {
    **OPEN_CLIP,
    "to-float-on-device": AUTOMATIC,
    "train-num-samples": "set train.samples to it times the number of epochs",
    "zeroshot-steps": to_key("eval.every_steps", int),
    "val-steps": to_key("eval.every_steps", int),
    "pos-embed": to_choice(
        "model.vision.position", {"learnable": "learned", "sin_cos_2d": "sin_cos"}
    ),
    "interpolation": to_key("model.preprocess.interpolation"),
    "square-resize-only": to_values(model__preprocess__resize_mode="squash"),
}

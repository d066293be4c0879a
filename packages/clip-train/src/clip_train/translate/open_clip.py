"""Flags of open_clip 3.3 and of CLIPA (torch), which extends it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clip_train.translate.model_names import find_model
from clip_train.translate.rules import (
    AUTOMATIC,
    NOTE,
    PRECISIONS,
    Missing,
    Rule,
    image_size,
    look_up,
    to_choice,
    to_key,
    to_values,
    used_with,
    whole_number,
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
    return {"data.train": "::".join(_with_kind(part, values) for part in value.split("::"))}


def _with_kind(path: str, values: Mapping[str, Any]) -> str:
    """A path behind the kind of data that the command line says it is."""
    kind = look_up(values.get("dataset-type", "auto"), _FORMATS)
    return f"{kind or ('csv' if path.endswith(('.csv', '.tsv')) else 'wds')}:{path}"


def _model(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A model, with AdamW's defaults and CLIPA's caption reduction, which follow from its name."""
    found: dict[str, Any] = {"model.name": find_model(value)}
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
        found[NOTE] = Missing(f"no counterpart of {', '.join(left)}")
    return found


def validation_sets(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sources that a run is evaluated on, each with the name of its class names or nothing."""
    found: list[tuple[str, str]] = []
    if "val-data" in values:
        found.append((_with_kind(str(values["val-data"]), values), ""))
    if "imagenet-val" in values:
        found.append((f"imagefolder:{values['imagenet-val']}", ""))
    if "imagenet-v2" in values:  # where the package imagenetv2_pytorch unpacks it
        folder = str(values["imagenet-v2"]).rstrip("/") + "/ImageNetV2-matched-frequency"
        found.append((f"imagefolder:{folder}", "imagenetv2"))
    return found


def _validation(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """All validation sets, whichever of their flags is translated."""
    if value is True:
        raise ValueError("expected a value")
    sets = validation_sets(values)
    specs, names = [spec for spec, _ in sets], [name for _, name in sets]
    found: dict[str, Any] = {"data.val": specs[0] if len(specs) == 1 else specs}
    return found | ({"eval.classnames": names} if any(names) else {})


def _num_samples(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Samples of an epoch, which are declared there and decide the length of training."""
    kind = values.get("dataset-type", "auto")
    if kind == "csv" or (kind == "auto" and str(values.get("train-data")).endswith("sv")):
        return {}  # counted in the table
    return {"train.samples": round(whole_number(value) * float(values["epochs"]))}


def _weights(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The shares of sources: there a factor counts for each of a source's shards."""
    factors, sources = (text.split("::") for text in (value, str(values["train-data"])))
    if len(factors) != len(sources):
        raise ValueError(f"{len(factors)} factors for {len(sources)} sources")
    pairs = zip(factors, sources, strict=True)
    return {"data.weights": [float(factor) * _count_shards(source) for factor, source in pairs]}


def _count_shards(source: str) -> int:
    """The number of files that `{000..012}` and `{a,b}` stand for."""
    count = 1
    for inside in re.findall(r"\{([^{}]*)\}", source):
        ends = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
        count *= abs(int(ends[2]) - int(ends[1])) + 1 if ends else inside.count(",") + 1
    return count


def _cooldown(value: str, values: Mapping[str, Any]) -> dict[str, Any] | str:
    if values.get("lr-scheduler") != "const-cooldown":
        return "used by const-cooldown only"
    if "train-num-samples" in values:
        samples = whole_number(values["train-num-samples"])
        return {"optim.cooldown_samples": round(samples * float(value))}
    return {"optim.cooldown_epochs": float(value)}


def _unless(default: float, why: str) -> Rule:
    """A number that is always the default here."""
    return lambda value, _: {} if float(value) == default else Missing(why)


def _numbers(key: str) -> Rule:
    """Several words as numbers under one of our keys."""
    return lambda value, _: {key: [float(word) for word in str(value).split()]}


def _column(key: str, default: str) -> Rule:
    """The extension of a sample's files, where it is not the common one."""
    return lambda value, _: {} if set(value.split(";")) <= set(default.split(";")) else {key: value}


def _lock_image(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """A locked image tower, whose BatchNorm layers keep their statistics."""
    found: dict[str, Any] = {"model.lock_image": True}
    has_statistics = "vit" not in str(values["model"]).lower()
    if has_statistics and "lock-image-freeze-bn-stats" not in values:
        found[NOTE] = Missing(
            "the BatchNorm layers of a locked tower keep their statistics, as with "
            "--lock-image-freeze-bn-stats"
        )
    return found


def _resume(value: Any, values: Mapping[str, Any]) -> str:
    if value in (True, "latest", "None"):
        return "`clip-train resume DIR`"
    return Missing("weights to start from are --pretrained; `clip-train resume` continues our runs")


_NOT_IN_RESULT = "it has no effect on the trained weights"
OPEN_CLIP: Mapping[str, Rule] = {
    "train-data": _source,
    "dataset-type": used_with("train-data"),
    **dict.fromkeys(("val-data", "imagenet-val", "imagenet-v2"), _validation),
    "dataset-resampled": "each epoch sees every sample once, instead of draws with repeats",
    "train-data-upsampling-factors": _weights,
    "csv-separator": "the separator of a table is recognized",
    "image-key": _column("data.image_key", "jpg;png;jpeg;webp"),
    "text-key": _column("data.caption_key", "txt"),
    "image-mean": _numbers("model.preprocess.mean"),
    "image-std": _numbers("model.preprocess.std"),
    "image-interpolation": to_key("model.preprocess.interpolation"),
    "image-resize-mode": to_key("model.preprocess.resize_mode"),
    "force-context-length": to_key("model.text.context_length", int),
    "force-quick-gelu": lambda value, _: {
        "model.vision.activation": "quick_gelu",
        "model.text.activation": "quick_gelu",
    },
    "csv-img-key": to_key("data.image_key"),
    "csv-caption-key": to_key("data.caption_key"),
    "train-num-samples": _num_samples,
    "workers": to_key("data.workers", int),
    "model": _model,
    "pretrained": to_key("model.pretrained"),
    "force-image-size": image_size,
    "force-patch-dropout": lambda value, _: {
        "model.vision.patch_reduction.kind": "random",
        "model.vision.patch_reduction.keep_ratio": 1 - float(value),
    },
    "lock-image": _lock_image,
    "lock-image-freeze-bn-stats": AUTOMATIC,
    "lock-text-freeze-layer-norm": "a LayerNorm has no statistics",
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
    "lr-cooldown-end": _unless(0, "a cooldown ends at zero"),
    "lr-cooldown-power": _unless(1, "a cooldown is linear"),
    "epochs-cooldown": _cooldown,
    "skip-scheduler": to_values(optim__schedule="constant"),
    "image-layer-decay": to_key("optim.image_layer_decay", float),
    "text-layer-decay": to_key("optim.text_layer_decay", float),
    "grad-clip-norm": to_key("optim.clip_norm", float),
    "opt": lambda value, _: (
        {"optim.name": value}
        if value in ("adamw", "muon")
        else Missing("AdamW is the default, and torch's Muon is optim.name = 'muon'")
    ),
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
    "resume": _resume,
    "logs": "--out DIR",
    "name": "--out DIR",
    "log-every-n-steps": to_key("log.every_steps", int),
    "report-to": lambda value, _: {"log.wandb_project": "open-clip"} if "wandb" in value else {},
    "wandb-project-name": to_key("log.wandb_project"),
    "zeroshot-frequency": _STEPS_ONLY,
    "val-frequency": _STEPS_ONLY,
    **dict.fromkeys(
        (
            *("cache-dir", "debug", "copy-codebase", "log-local", "wandb-notes", "dist-url"),
            *("dist-backend", "no-set-device-rank", "horovod", "force-custom-text", "val-num-*"),
            *("remote-sync-*", "torchcompile-*", "tensorboard*", "val-retrieval-*", "local-rank"),
            *("log-metric-every-n-steps", "train-loss-ema-samples", "fsdp-*", "wandb"),
        ),
        _NOT_IN_RESULT,
    ),
}

CLIPA: Mapping[str, Rule] = {
    **OPEN_CLIP,
    "to-float-on-device": AUTOMATIC,
    "zeroshot-steps": to_key("eval.every_steps", int),
    "val-steps": to_key("eval.every_steps", int),
    "pos-embed": to_choice(
        "model.vision.position", {"learnable": "learned", "sin_cos_2d": "sin_cos"}
    ),
    "interpolation": to_key("model.preprocess.interpolation"),
    "distributed-evaluation": "evaluation is always shared by all processes",
    "square-resize-only": to_values(model__preprocess__resize_mode="squash"),
}

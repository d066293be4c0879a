"""What the flags and keys of other systems are called here.

A rule turns a value, seen with all others, into our keys and options of the command (`--out`); a
text says why there is none.  Names and defaults are those of open_clip 3.3, CLIPA (torch), OFM and
CoreNet 0.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[Any, Mapping[str, Any]], dict[str, Any] | str] | str

NOTE = "#"  # beside a rule's keys: what of the value they do not say
_NOTHING = "nothing to say: it is so here"
_ALWAYS_EXACT = "the gradient is that of the whole batch here, always"
_STEPS_ONLY = "counted in epochs there; give eval.every_steps or eval.every_samples"
_FORMATS = {"webdataset": "wds", "csv": "csv", "tfrecord": "tfrecord", "auto": ""}
_SCHEDULES = {"cosine": "cosine", "const": "constant", "const-cooldown": "constant_cooldown"}
_PRECISIONS = {
    **dict.fromkeys(("fp32", "float32"), "fp32"),
    **dict.fromkeys(("amp", "fp16", "float16"), "fp16"),
    **dict.fromkeys(("amp_bf16", "amp_bfloat16", "bf16", "bfloat16"), "bf16"),
}
_AUGMENTATIONS = {
    "scale": ("augment.scale", 2),
    "color_jitter": ("augment.color_jitter", 4),
    "color_jitter_prob": ("augment.color_jitter_probability", 0),
    "gray_scale_prob": ("augment.grayscale_probability", 0),
}


def _as(key: str, kind: Callable[[Any], Any] = str) -> Rule:
    return lambda value, values: {key: kind(value)}


def _flag(**values: Any) -> Rule:
    """Keys that a flag without value stands for; two underscores are a dot."""
    return lambda value, _: {key.replace("__", "."): ours for key, ours in values.items()}


def _find(value: Any, names: Mapping[str, str]) -> str:
    if value not in names:
        raise ValueError(f"expected one of {', '.join(names)}")
    return names[value]


def _one_of(key: str, names: Mapping[str, str]) -> Rule:
    return lambda value, values: {key: _find(value, names)}


def _said_with(other: str) -> Rule:
    """What another rule reads; alone it changes nothing there either."""
    return lambda value, values: {} if other in values else f"of no effect without {other}"


def _source(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """One or several sources, `A::B`."""
    kind = _find(values.get("dataset-type", "auto"), _FORMATS)
    kind = kind or ("csv" if value.endswith((".csv", ".tsv")) else "wds")
    return {"data.train": "::".join(f"{kind}:{part}" for part in value.split("::"))}


def _model(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A model, and what goes by its name: AdamW's numbers, and CLIPA's reduction of captions."""
    found: dict[str, Any] = {"model.name": value}
    if "vit" not in value.lower():
        usual = {"beta2": ("optim.betas.1", 0.999), "eps": ("optim.eps", 1e-8)}
        found |= dict(pair for flag, pair in usual.items() if flag not in values)
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


def _image_size(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    sides = {int(word) for word in str(value).split()}
    if len(sides) != 1:
        raise ValueError("images are square here")
    return {"model.vision.image_size": sides.pop()}


OPEN_CLIP: Mapping[str, Rule] = {
    "train-data": _source,
    "dataset-type": _said_with("train-data"),
    "imagenet-val": _as("data.val", lambda value: f"imagefolder:{value}"),
    "csv-img-key": _as("data.image_key"),
    "csv-caption-key": _as("data.caption_key"),
    "train-num-samples": "samples are counted from the data",
    "workers": _as("data.workers", int),
    "model": _model,
    "pretrained": _as("model.pretrained"),
    "force-image-size": _image_size,
    "force-patch-dropout": lambda value, _: {
        "model.vision.patch_reduction.kind": "random",
        "model.vision.patch_reduction.keep_ratio": 1 - float(value),
    },
    "lock-image": _flag(model__lock_image=True),
    "lock-image-unlocked-groups": _as("model.unlocked_image_groups", int),
    "lock-text": _flag(model__lock_text=True),
    "lock-text-unlocked-layers": _as("model.unlocked_text_groups", int),
    "aug-cfg": _augmentation,
    "precision": _one_of("train.precision", _PRECISIONS),
    "batch-size": _as("train.batch_size", int),
    "accum-freq": _as("train.accumulation", int),
    "epochs": _as("train.epochs", float),
    "seed": _as("train.seed", int),
    "device": _as("train.device"),
    "grad-checkpointing": _flag(train__gradient_checkpointing=True),
    "torchcompile": _flag(train__compile="inductor"),
    "fsdp": _flag(train__backend="fsdp2"),
    "lr": _as("optim.lr", float),
    "beta1": _as("optim.betas.0", float),
    "beta2": _as("optim.betas.1", float),
    "eps": _as("optim.eps", float),
    "wd": _as("optim.weight_decay", float),
    "warmup": _as("optim.warmup_steps", int),
    "lr-scheduler": _one_of("optim.schedule", _SCHEDULES),
    "lr-cooldown-end": "a cooldown ends at zero here",
    "lr-cooldown-power": "a cooldown is linear here",
    "epochs-cooldown": "give optim.cooldown_steps or optim.cooldown_samples",
    "skip-scheduler": _flag(optim__schedule="constant"),
    "image-layer-decay": _as("optim.image_layer_decay", float),
    "text-layer-decay": _as("optim.text_layer_decay", float),
    "grad-clip-norm": _as("optim.clip_norm", float),
    "opt": "AdamW is the default, and torch's Muon is optim.name = 'muon'",
    "loss": _as("loss.kind"),  # no flag of theirs: what they train with by default
    "local-loss": _ALWAYS_EXACT,
    "gather-with-grad": _ALWAYS_EXACT,
    "loss-dist-impl": _ALWAYS_EXACT,
    "siglip": _flag(loss__kind="sigmoid"),
    "distill-pretrained": _as("loss.teacher"),
    "distill-model": _as("loss.teacher_name"),
    "use-bn-sync": "BatchNorm layers are always synchronised here",
    "ddp-static-graph": "nothing to set",
    "save-frequency": "counted in epochs there; give checkpoint.every_steps",
    "save-most-recent": _flag(checkpoint__keep_last=1),
    "delete-previous-checkpoint": _flag(checkpoint__keep_last=1),
    "remote-sync": _as("checkpoint.directory"),
    "resume": "`clip-train resume DIR`",
    "logs": "--out DIR",
    "name": "--out DIR",
    "log-every-n-steps": _as("log.every_steps", int),
    "report-to": lambda value, _: {"log.wandb_project": "open-clip"} if "wandb" in value else {},
    "wandb-project-name": _as("log.wandb_project"),
    "zeroshot-frequency": _STEPS_ONLY,
    "val-frequency": _STEPS_ONLY,
    "val-data": "validation is classification of data.val here",
}

CLIPA: Mapping[str, Rule] = {
    **OPEN_CLIP,
    "to-float-on-device": _NOTHING,
    "train-num-samples": "train.samples, if epochs are of that many samples",
    "zeroshot-steps": _as("eval.every_steps", int),
    "val-steps": _as("eval.every_steps", int),
    "pos-embed": _one_of(
        "model.vision.position", {"learnable": "learned", "sin_cos_2d": "sin_cos"}
    ),
    "interpolation": _as("model.preprocess.interpolation"),
    "square-resize-only": _flag(model__preprocess__resize_mode="squash"),
}

_VARIABLE = "variable_batch_sampler"


def _variable(key: str) -> Rule:
    """A number that CoreNet's variable batch sampler alone reads."""
    return lambda value, values: (
        {key: int(value)}
        if str(values.get("sampler.name")).startswith(_VARIABLE)
        else f"read by {_VARIABLE} alone"
    )


def _sampler(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    name = _find(value.removesuffix("_ddp"), {_VARIABLE: "variable", "batch_sampler": ""})
    number = int(values.get("sampler.vbs.max_n_scales", 5))
    return {"data.variable_sizes.num_sizes": number} if name else {}


def _average(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"optim.ema_decay": 1 - float(values.get("ema.momentum", 1e-4))} if value else {}


def _mixed_precision(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    name = values.get("common.mixed_precision_dtype", "float16") if value else "float32"
    return {"train.precision": _find(name, _PRECISIONS)}


CORENET: Mapping[str, Rule] = {
    "dataset.train_batch_size0": _as("train.batch_size", int),
    "dataset.workers": lambda value, _: {} if int(value) < 0 else {"data.workers": int(value)},
    "sampler.name": _sampler,
    "sampler.bs.crop_size_width": _image_size,
    "sampler.vbs.crop_size_width": _variable("model.vision.image_size"),
    "sampler.vbs.max_n_scales": _variable("data.variable_sizes.num_sizes"),
    "sampler.vbs.min_crop_size_width": _variable("data.variable_sizes.min_size"),
    "sampler.vbs.max_crop_size_width": _variable("data.variable_sizes.max_size"),
    "sampler.vbs.check_scale": _variable("data.variable_sizes.divisor"),
    "image_augmentation.random_resized_crop.enable": lambda value, _: (
        {"augment.kind": "random_resized_crop"} if value else {}
    ),
    "image_augmentation.random_resized_crop.scale": _as("augment.scale", list),
    "loss.category": _flag(loss__kind="infonce"),
    "optim.name": _one_of("optim.name", {"adamw": "adamw"}),
    "optim.weight_decay": _as("optim.weight_decay", float),
    "optim.adamw.beta1": _as("optim.betas.0", float),
    "optim.adamw.beta2": _as("optim.betas.1", float),
    "optim.adamw.eps": _as("optim.eps", float),
    "optim.no_decay_bn_filter_bias": _NOTHING,
    "scheduler.name": _one_of("optim.schedule", {"cosine": "cosine"}),
    "scheduler.max_iterations": _as("train.steps", int),
    "scheduler.max_epochs": _as("train.epochs", float),
    "scheduler.warmup_iterations": _as("optim.warmup_steps", int),
    "scheduler.warmup_init_lr": _as("optim.first_lr", float),
    "scheduler.cosine.max_lr": _as("optim.lr", float),
    "scheduler.cosine.min_lr": _as("optim.final_lr", float),
    "scheduler.is_iteration_based": _NOTHING,
    "ema.enable": _average,
    "ema.momentum": _said_with("ema.enable"),
    "common.mixed_precision": _mixed_precision,
    "common.mixed_precision_dtype": _said_with("common.mixed_precision"),
    "common.grad_clip": _as("optim.clip_norm", float),
    "common.accum_freq": _as("train.accumulation", int),
    "common.seed": _as("train.seed", int),
    "common.log_freq": _as("log.every_steps", int),
    "common.save_interval_freq": _as("checkpoint.every_steps", int),
    "common.auto_resume": "`clip-train resume DIR`",
    "ddp.enable": "start the run with torchrun",
}

_OSF_COMMAND = "`osf train` (osf-supernet) trains supernets of models that are no CLIP"


def _osf_model(value: str, values: Mapping[str, Any]) -> dict[str, Any] | str:
    """OFM's names; a CLIP is also any directory or repository that holds one."""
    if value == "clip":
        return {"model.pretrained": "hf-hub:openai/clip-vit-base-patch32"}
    if "/" in value or value.startswith("hf-hub:"):
        local = value.startswith((".", "/", "hf-hub:"))
        return {"model.pretrained": value if local else f"hf-hub:{value}"}
    return _OSF_COMMAND


def _osf_data(value: str, values: Mapping[str, Any]) -> dict[str, Any] | str:
    if value in ("cifar10", "cifar100"):
        return {"data.train": value, "data.val": value}
    if value in ("imagenet-1k", "flowers102", "Caltech101", "Food101"):
        return "give class folders: data.train = 'imagefolder:DIR/train', and data.val"
    return f"a text task; {_OSF_COMMAND}"


OSF: Mapping[str, Rule] = {
    "model": _osf_model,
    "dataset": _osf_data,
    "lr": _as("optim.lr", float),
    "batch-size": _as("train.batch_size", int),
    "epochs": _as("train.epochs", float),
    "log-interval": _as("log.every_steps", int),
    "fp16": _flag(train__precision="fp16"),
    "elastic-config": _as("--space"),
    "save-dir": _as("--out"),
    "resume-ckpt": "`clip-train resume DIR`",
    "num-shards": "each step trains several subnets here, on all data: --num-random N",
    "huggingface-token": "a run sends nothing; a model of it is sent by `osf extract "
    "clip-models:DIR --supernet DIR --push-to-hub OWNER/NAME --token T`",
    "push-to-hub": "`osf extract clip-models:DIR --supernet DIR --push-to-hub OWNER/NAME`",
    **dict.fromkeys(
        (
            "spp",
            "grad-beta",
            "patience",
            "step-size",
            "peft",
            "epoch-eval-size",
            "k-shot",
            "num-local-epochs",
            "adapter-ckpt",
        ),
        "read by no script of the original",
    ),
}

SYSTEMS: Mapping[str, Mapping[str, Rule]] = {
    "open_clip": OPEN_CLIP,
    "clipa": CLIPA,
    "osf": OSF,
    "corenet": CORENET,
}

# The command that takes the TOML, where it is not `clip-train run`.
COMMANDS: Mapping[str, str] = {"osf": "clip-train supernet THIS.toml"}

# What the original does when a flag is not given, where we would do otherwise.
_OPEN_CLIP_DEFAULTS = {
    "model": "RN50",
    "aug-cfg": "",
    "loss": "infonce",
    "batch-size": 64,
    "epochs": 32,
    "warmup": 10000,
    "precision": "amp",
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "open_clip": _OPEN_CLIP_DEFAULTS,
    "clipa": _OPEN_CLIP_DEFAULTS,
    "osf": {"lr": 5e-5, "batch-size": 64, "epochs": 500, "log-interval": 10, "save-dir": "ckpts/"},
    "corenet": {"loss.category": "clip"},
}

"""Keys of CoreNet 0.1's recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_train.translate.rules import (
    AUTOMATIC,
    PRECISIONS,
    Missing,
    Rule,
    expect,
    image_size,
    look_up,
    to_choice,
    to_key,
    used_with,
)

_VARIABLE = "variable_batch_sampler"


def _variable(key: str) -> Rule:
    """A number that only CoreNet's variable batch sampler uses."""
    return lambda value, values: (
        {key: int(value)} if _is_variable(values) else f"used by {_VARIABLE} only"
    )


def _is_variable(values: Mapping[str, Any]) -> bool:
    return str(values.get("sampler.name")).startswith(_VARIABLE)


def _side(value: Any, values: Mapping[str, Any]) -> dict[str, Any] | str:
    """The size around which the sampler varies; that of the named model is not repeated."""
    if not _is_variable(values):
        return f"used by {_VARIABLE} only"
    return {} if int(value) == 224 else {"model.vision.image_size": int(value)}


def _sampler(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    name = look_up(value.removesuffix("_ddp"), {_VARIABLE: "variable", "batch_sampler": ""})
    number = int(values.get("sampler.vbs.max_n_scales", 5))
    return {"data.variable_sizes.num_sizes": number} if name else {}


def _ema(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"optim.ema_decay": 1 - float(values.get("ema.momentum", 1e-4))} if value else {}


def _mixed_precision(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    name = values.get("common.mixed_precision_dtype", "float16") if value else "float32"
    return {"train.precision": look_up(name, PRECISIONS)}


def _length(counts_steps: bool, rule: Rule) -> Rule:
    """A length that counts if the schedule is in the same unit; CoreNet's default is steps."""
    assert callable(rule)

    def translate(value: Any, values: Mapping[str, Any]) -> dict[str, Any] | str:
        if bool(values.get("scheduler.is_iteration_based", True)) != counts_steps:
            return "not used; scheduler.is_iteration_based says which length counts"
        return rule(value, values)

    return translate


_ONE_WAY = "it has no effect on the trained weights"
_EVALUATION = "for validation; set the keys of [eval] and data.val"
_FIXED = "as CoreNet-ViT-B-16 has it; other values are not supported"
_VIT_SIZES: Mapping[str, Mapping[str, int]] = {  # of CoreNet's modes
    "tiny": {"width": 192, "num_layers": 12, "num_heads": 3},
    "small": {"width": 384, "num_layers": 12, "num_heads": 6},
    "base": {},
    "large": {"width": 1024, "num_layers": 24, "num_heads": 16},
    "huge": {"width": 1280, "num_layers": 32, "num_heads": 20},
}


def _vit(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The image tower of a mode; its convolutional stem and positions are those of the base."""
    if value not in _VIT_SIZES:
        raise ValueError(f"expected one of {', '.join(_VIT_SIZES)}")
    sizes = {f"model.vision.{key}": number for key, number in _VIT_SIZES[value].items()}
    return {"model.name": "CoreNet-ViT-B-16"} | sizes


def _text_size(key: str, default: int) -> Rule:
    """A size of the text tower, where it is another than the named model's."""
    return lambda value, _: {} if int(value) == default else {f"model.text.{key}": int(value)}


def _augmented(value: Any, values: Mapping[str, Any]) -> dict[str, Any] | str:
    """RangeAugment, which learns all three operations or none."""
    names = ("brightness", "contrast", "noise")
    chosen = [name for name in names if values.get(f"model.learn_augmentation.{name}")]
    if not chosen or values.get("model.learn_augmentation.mode") is None:
        return {}
    if len(chosen) < len(names):
        return Missing("RangeAugment learns brightness, contrast and noise together")
    return {"augment.range.enabled": True}


def _neural(values: Mapping[str, Any]) -> dict[str, Any]:
    """The target of RangeAugment and the weight of its loss."""
    target = values.get("target_value", [40, 20])
    ends = target if isinstance(target, list) else [target, target]
    return {
        "augment.range.target_psnr": [float(end) for end in ends],
        "augment.range.curriculum": values.get("curriculum_method", "cosine"),
        "augment.range.weight": float(values.get("alpha", 100)),
    }


def _composite(value: list[Mapping[str, Any]], values: Mapping[str, Any]) -> dict[str, Any] | str:
    """CLIP's loss together with that of RangeAugment."""
    found: dict[str, Any] = {}
    for part in value:
        name = part.get("loss_category")
        if name == "multi_modal_image_text":  # its name in the released recipe
            name = (part.get(name) or {}).get("name")
        if name in ("clip", "contrastive_loss_clip"):
            name = "clip"
        elif name != "neural_augmentation":
            return Missing(f"no counterpart of the loss {name!r}")
        if float(part.get("loss_weight", 1)) != 1:
            return Missing(f"the loss {name!r} has weight {part['loss_weight']}, not 1")
        found |= {"loss.kind": "infonce"} if name == "clip" else _neural(part.get(name) or {})
    return found


def _loss(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    look_up(value, {"clip": "infonce", "contrastive_loss_clip": "infonce", "composite_loss": ""})
    return {} if value == "composite_loss" else {"loss.kind": "infonce"}


def _neural_key(name: str) -> Rule:
    prefix = "loss.neural_augmentation."
    return lambda value, values: _neural(
        {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}
    )


def _val(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The labelled images that are classified during training."""
    return {"data.val": f"imagefolder:{value}"} if value else {}


def _best(value: Any, values: Mapping[str, Any]) -> dict[str, Any] | str:
    """The metric of the best checkpoint, such as `top1.zero_shot_image_logits`."""
    metric = look_up(str(value).partition(".")[0], {"top1": "acc1", "top5": "acc5", "loss": ""})
    if metric and values.get("dataset.root_val"):
        return {"eval.metric": metric}
    return "set data.val, and eval.metric to one of its metrics"


def _tars(value: Any, values: Mapping[str, Any]) -> dict[str, Any] | str:
    """The section of the training data, which the published recipe leaves empty."""
    return Missing("unknown flag or key") if value else "names no metadata_file; set data.train"


def _train_data(value: str, values: Mapping[str, Any]) -> dict[str, Any]:
    folder = value.rpartition("/")[0] if value.endswith((".pkl", ".json")) else value
    return {"data.train": f"corenet:{folder}"} if folder else {}


CORENET_DEFAULTS = {"loss.category": "clip", "model.classification.vit.mode": "base"}

CORENET: Mapping[str, Rule] = {
    "dataset.root_train": _train_data,
    "dataset.root_val": _val,
    "dataset.name": expect("img_text_tar", why="the data is CoreNet's image-text tars"),
    "dataset.category": expect(
        "multi-modal-image-text", "multi_modal_image_text", why="only CLIP is translated"
    ),
    "dataset.multi_modal_img_text.img_text_tar": _tars,
    "dataset.multi_modal_img_text.img_text_tar.metadata_file": _train_data,
    "dataset.multi_modal_img_text.context_length": _text_size("context_length", 77),
    "dataset.multi_modal_img_text.trunc_seq_len": AUTOMATIC,
    "dataset.multi_modal_img_text.padding_index": _ONE_WAY,
    "text_tokenizer.name": expect("openai_clip", "clip", why="the tokenizer is OpenAI's"),
    "model.multi_modal_image_text.name": expect("clip", why="only CLIP is translated"),
    "model.multi_modal_image_text.clip.projection_dim": expect(512, why=_FIXED),
    "model.multi_modal_image_text.pretrained": to_key("model.pretrained"),
    "model.image_projection_head.name": expect("simple_projection_nc2nc", why=_FIXED),
    "model.classification.name": expect("vit", why="only the ViT is translated"),
    "model.classification.vit.mode": _vit,
    "model.classification.vit.no_cls_token": expect(False, why=_FIXED),
    "model.classification.vit.dropout": expect(0, 0.0, why="there is no dropout"),
    "model.classification.vit.stochastic_dropout": expect(0, 0.0, why="there is no dropout"),
    "model.classification.vit.sinusoidal_pos_emb": expect(False, why=_FIXED),
    "model.text.name": expect("transformer", why="only the Transformer is translated"),
    "model.text.vocab_size": _text_size("vocab_size", 49408),
    "model.text.context_length": _text_size("context_length", 77),
    "model.text.transformer.causal_masking": expect(True, why=_FIXED),
    "model.text.transformer.model_dim": _text_size("width", 512),
    "model.text.transformer.n_transformer_layers": _text_size("num_layers", 12),
    "model.text.transformer.n_heads_per_layer": _text_size("num_heads", 8),
    "model.text.transformer.ffn_multiplier_per_layer": expect(4, 4.0, why=_FIXED),
    "model.text.transformer.no_scale_embedding": expect(False, why=_FIXED),
    "model.text.transformer.no_pos_embedding": expect(False, why=_FIXED),
    "model.text.transformer.*dropout": expect(0, 0.0, why="there is no dropout"),
    "model.activation.name": expect("gelu", why=_FIXED),
    "model.activation_checkpointing": lambda value, _: {
        "train.gradient_checkpointing": bool(value)
    },
    "model.learn_augmentation.mode": expect("distribution", why="ranges are learned"),
    "model.learn_augmentation.brightness": _augmented,
    "model.learn_augmentation.contrast": _augmented,
    "model.learn_augmentation.noise": _augmented,
    "model.learn_augmentation.lr_multiplier": "the original reads it, and does not use it",
    "sampler.vbs.scale_inc": expect(False, why="set data.variable_sizes.growth_epochs"),
    "image_augmentation.random_resized_crop.interpolation": expect("bilinear", why=_FIXED),
    "image_augmentation.random_horizontal_flip.enable": lambda value, _: (
        {"augment.flip": True} if value else {}
    ),
    "optim.adamw.amsgrad": expect(False, why="AdamW has no amsgrad here"),
    "dataset.train_batch_size0": to_key("train.batch_size", int),
    "dataset.workers": lambda value, _: {} if int(value) < 0 else {"data.workers": int(value)},
    "sampler.name": _sampler,
    "sampler.bs.crop_size_width": image_size,
    "sampler.bs.crop_size_height": "images are square",
    "sampler.vbs.crop_size_height": "images are square",
    "sampler.vbs.min_crop_size_height": "images are square",
    "sampler.vbs.max_crop_size_height": "images are square",
    "sampler.vbs.crop_size_width": _side,
    "sampler.vbs.max_n_scales": _variable("data.variable_sizes.num_sizes"),
    "sampler.vbs.min_crop_size_width": _variable("data.variable_sizes.min_size"),
    "sampler.vbs.max_crop_size_width": _variable("data.variable_sizes.max_size"),
    "sampler.vbs.check_scale": _variable("data.variable_sizes.divisor"),
    "image_augmentation.random_resized_crop.enable": lambda value, _: (
        {"augment.kind": "random_resized_crop"} if value else {}
    ),
    "image_augmentation.random_resized_crop.scale": to_key("augment.scale", list),
    "loss.category": _loss,
    "loss.composite_loss": _composite,
    "loss.neural_augmentation.target_value": _neural_key("target_value"),
    "loss.neural_augmentation.curriculum_method": _neural_key("curriculum_method"),
    "loss.neural_augmentation.alpha": _neural_key("alpha"),
    "loss.neural_augmentation.perceptual_metric": expect("psnr", why="the target is a PSNR"),
    "optim.name": to_choice("optim.name", {"adamw": "adamw"}),
    "optim.weight_decay": to_key("optim.weight_decay", float),
    "optim.adamw.beta1": to_key("optim.betas.0", float),
    "optim.adamw.beta2": to_key("optim.betas.1", float),
    "optim.adamw.eps": to_key("optim.eps", float),
    "optim.no_decay_bn_filter_bias": AUTOMATIC,
    "scheduler.name": to_choice("optim.schedule", {"cosine": "cosine"}),
    "scheduler.max_iterations": _length(True, to_key("train.steps", int)),
    "scheduler.max_epochs": _length(False, to_key("train.epochs", float)),
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
    "stats.checkpoint_metric": _best,
    "stats.checkpoint_metric_max": used_with("stats.checkpoint_metric"),
    **dict.fromkeys(
        ("stats.*", "dataset.val_*", "dataset.eval_*", "dataset.root_test", "dataset.test_*"),
        _EVALUATION,
    ),
    "image_augmentation.resize.*": _EVALUATION,
    "image_augmentation.center_crop.*": _EVALUATION,
    "dataset.multi_modal_img_text.zero_shot_*": _EVALUATION,
    "model.multi_modal_image_text.clip.cache_text_features_zero_shot": _EVALUATION,
    **dict.fromkeys(
        (
            *("common.run_label", "common.results_loc", "common.tensorboard_logging"),
            *("taskname", "_anchor_*", "dataset.collate_fn_name_*", "model.*.inplace"),
            *("common.save_all_checkpoints", "common.bolt_logging", "common.override_*"),
            *("dataset.persistent_workers", "dataset.pin_memory", "dataset.prefetch_factor"),
            *("dataset.cache_*", "ddp.*", "text_tokenizer.*.bpe_path"),
            *("text_tokenizer.*.encoder_json_path", "text_tokenizer.*.merges_path"),
            *("sampler.use_shards", "sampler.disable_shuffle_sharding"),
            "sampler.start_shuffling_from_epoch",
        ),
        _ONE_WAY,
    ),
    **dict.fromkeys(
        (
            *("model.layer.*", "model.normalization.*", "model.*.norm_layer"),
            *("model.*.lr_multiplier*", "image_augmentation.to_tensor.*", "model.classification.*"),
        ),
        "as CoreNet's ViT-B/16 recipe has it",
    ),
}

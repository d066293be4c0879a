"""Configs in open_clip's JSON.

`from_open_clip` reads what open_clip 3 writes (`open_clip_config.json`, or its `model_cfg` alone);
`to_open_clip` writes it. A setting that these modules do not compute is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.strict import as_table, nearest
from clip_models.config.towers import (
    Activation,
    ModifiedResNetConfig,
    PatchReductionConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
    ViTConfig,
)
from clip_models.converters.equivalence import require_same
from clip_models.converters.timm_siglip import from_timm_siglip, to_timm_siglip
from clip_models.errors import ConfigError

# open_clip's defaults. A key of a table _…_FIXED must have its default: any other value asks for
# something that these modules do not compute. The value of a key in _…_ANY changes nothing.
_MODEL: dict[str, Any] = {
    "embed_dim": 512,
    "quick_gelu": False,
    "init_logit_scale": None,
    "init_logit_bias": None,
}
_MODEL_FIXED: dict[str, Any] = {"multimodal_cfg": None}
_MODEL_ANY = ("vision_cfg", "text_cfg", "custom_text", "nonscalar_logit_scale", "output_dict")
_VISION: dict[str, Any] = {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "image_size": 224,
    "ls_init_value": None,
    "patch_dropout": 0.0,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "final_ln_after_pool": False,
    "pool_type": "tok",
    "act_kwargs": None,
    "norm_kwargs": None,
    "timm_model_name": None,
    "timm_pool": "avg",
    "timm_proj": "linear",
}
_TEXT: dict[str, Any] = {
    "context_length": 77,
    "vocab_size": 49408,
    "hf_tokenizer_name": None,
    "tokenizer_kwargs": None,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
    "ls_init_value": None,
    "eos_id": 2,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "proj_bias": False,
    "proj_type": "linear",
    "act_kwargs": None,
    "norm_kwargs": None,
}
_BLOCK_FIXED: dict[str, Any] = {
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "output_tokens": False,
}
_VISION_FIXED = _BLOCK_FIXED | {"attentional_pool": False, "timm_drop": 0.0, "timm_drop_path": None}
_VISION_ANY = (
    "attn_pooler_queries",
    "attn_pooler_heads",
    "timm_model_pretrained",
    "timm_proj_bias",
)
_TEXT_FIXED = _BLOCK_FIXED | {"hf_model_name": None, "embed_cls": False, "tokenizer_mode": None}
_TEXT_ANY = (
    "pad_id",
    "final_ln_after_pool",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
)

_GELUS: dict[str, str] = {"none": "gelu", "tanh": "gelu_tanh"}


def from_open_clip(values: Mapping[str, Any]) -> CLIPConfig:
    """The config in open_clip's JSON.

    Args:
        values: All of `open_clip_config.json`, or its `model_cfg`, or one of open_clip's own
            `model_configs`.

    Raises:
        ConfigError: A key is unknown, or asks for something these modules do not compute.
    """
    values = as_table(values, "config").get("model_cfg", values)
    model = _read(values, "", _MODEL, _MODEL_FIXED, _MODEL_ANY)
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in values:
            raise ConfigError(f"key {key!r} is missing; is this an open_clip config?")
    vision = _read(values["vision_cfg"], "vision_cfg.", _VISION, _VISION_FIXED, _VISION_ANY)
    text = _read(values["text_cfg"], "text_cfg.", _TEXT, _TEXT_FIXED, _TEXT_ANY)
    logits = ("init_logit_scale", "init_logit_bias")
    try:
        config = CLIPConfig(
            embed_dim=model["embed_dim"],
            vision=_read_vision(vision, model["quick_gelu"]),
            text=_read_text(text, model["quick_gelu"]),
            **{key: float(model[key]) for key in logits if model[key] is not None},
        )
    except ConfigError:
        raise
    except (TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"this open_clip config has an impossible value: {error}") from None
    return CLIPConfig.from_dict(config.to_dict())  # which checks the types


def to_open_clip(config: CLIPConfig) -> dict[str, Any]:
    """The `model_cfg` of open_clip for a config; patch reduction, which is training's, is left out.

    Raises:
        ConfigError: open_clip has no such model; the message names the differences.
    """
    text = config.text
    written: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "vision_cfg": _write_vision(config),
        "text_cfg": _drop_defaults(_write_text(text), _TEXT),
    }
    if "quick_gelu" in (text.activation, getattr(config.vision, "activation", None)):
        written["quick_gelu"] = True
    if config.init_logit_scale != CLIPConfig.init_logit_scale:
        written["init_logit_scale"] = config.init_logit_scale
    if config.init_logit_bias is not None:
        written["init_logit_bias"] = config.init_logit_bias
    if text.projection != "linear" or "timm_model_name" in written["vision_cfg"]:
        written["custom_text"] = True
    require_same(config, from_open_clip(written), "open_clip's CLIP")
    return written


def _read(
    values: Any, where: str, read: dict[str, Any], fixed: dict[str, Any], ignored: tuple[str, ...]
) -> dict[str, Any]:
    """`read` updated by the values; other keys must be known and have no effect here."""
    as_table(values, where.rstrip(".") or "config")
    for key, value in values.items():
        if key not in read and key not in fixed and key not in ignored:
            known = [where + name for name in (*read, *fixed, *ignored)]
            raise ConfigError(f"unknown key {where + key!r}{nearest(where + key, known)}")
        if key in fixed and value and value != fixed[key]:
            raise ConfigError(
                f"{where}{key} = {value!r} is not computed here; only {fixed[key]!r} is"
            )
    return read | {key: _to_side(key, value) for key, value in values.items() if key in read}


def _to_side(key: str, value: Any) -> Any:
    """A square image or patch size as one number, another image size as height and width."""
    if key in ("image_size", "patch_size") and isinstance(value, (list, tuple)):
        if key == "image_size" and len(value) == 2:
            return tuple(value)
        if len(set(value)) != 1:
            raise ConfigError(f"{key} = {value} is not square; only squares are computed here")
        return value[0]
    return value


def _read_vision(values: dict[str, Any], quick_gelu: bool) -> ViTConfig | ModifiedResNetConfig:
    if values["timm_model_name"]:
        tower = from_timm_siglip(values)
        return replace(tower, patch_reduction=_read_reduction(values["patch_dropout"]))
    if isinstance(values["layers"], (list, tuple)):
        first, second, third, fourth = values["layers"]
        return ModifiedResNetConfig(
            image_size=values["image_size"],
            layers=(first, second, third, fourth),
            width=values["width"],
            num_heads=values["width"] * 32 // values["head_width"],
        )
    positions = {"learnable": "learned", "sin_cos_2d": "sin_cos"}
    readouts = {"tok": "class_token", "avg": "patch_average"}
    return ViTConfig(
        image_size=values["image_size"],
        patch_size=values["patch_size"],
        width=values["width"],
        num_layers=values["layers"],
        num_heads=values["width"] // values["head_width"],
        mlp_ratio=float(values["mlp_ratio"]),
        layer_scale_init=values["ls_init_value"],
        pre_norm=not values["no_ln_pre"],
        position=_choose(values, "pos_embed_type", positions),
        readout=_choose(values, "pool_type", readouts),
        norm_after_readout=values["final_ln_after_pool"],
        patch_reduction=_read_reduction(values["patch_dropout"]),
        activation=_read_activation(values["act_kwargs"], quick_gelu),
        layer_norm_eps=_read_epsilon(values["norm_kwargs"]),
    )


def _read_text(values: dict[str, Any], quick_gelu: bool) -> TextConfig:
    readouts = {"argmax": "end_token", "eos": "end_token", "last": "last", "first": "first"}
    biased: Literal["linear", "linear_bias"] = "linear_bias" if values["proj_bias"] else "linear"
    tokenizer = None
    if values["hf_tokenizer_name"] or values["tokenizer_kwargs"]:
        tokenizer = TokenizerConfig(
            name=values["hf_tokenizer_name"] or "clip", options=values["tokenizer_kwargs"] or {}
        )
    return TextConfig(
        context_length=values["context_length"],
        vocab_size=values["vocab_size"],
        width=values["width"],
        num_layers=values["layers"],
        num_heads=values["heads"],
        mlp_ratio=float(values["mlp_ratio"]),
        layer_scale_init=values["ls_init_value"],
        causal=not values["no_causal_mask"],
        readout=_choose(values, "pool_type", readouts),
        eot_token_id=values["eos_id"] if values["pool_type"] == "eos" else None,
        projection="none" if values["proj_type"] in ("none", None, "") else biased,
        activation=_read_activation(values["act_kwargs"], quick_gelu),
        layer_norm_eps=_read_epsilon(values["norm_kwargs"]),
        tokenizer=tokenizer,
    )


def _choose(values: dict[str, Any], key: str, choices: dict[str, str]) -> Any:
    if values[key] not in choices:
        raise ConfigError(f"{key} = {values[key]!r} is not computed here; known: {list(choices)}")
    return choices[values[key]]


def _read_reduction(dropout: float) -> PatchReductionConfig | None:
    return PatchReductionConfig(keep_ratio=1 - dropout) if dropout else None


def _read_activation(arguments: dict[str, Any] | None, quick_gelu: bool) -> Activation:
    approximate = _read_only_argument("act_kwargs", arguments, "approximate", "none")
    if quick_gelu:
        return "quick_gelu"
    return _choose({"approximate": approximate}, "approximate", _GELUS)


def _read_epsilon(arguments: dict[str, Any] | None) -> float:
    return float(_read_only_argument("norm_kwargs", arguments, "eps", 1e-5))


def _read_only_argument(name: str, arguments: dict[str, Any] | None, key: str, default: Any) -> Any:
    """The one argument of an activation or a norm that these modules have."""
    given = arguments or {}
    others = [other for other in given if other != key]
    if others:
        raise ConfigError(f"{name} = {given!r} is not computed here; only {key!r} is")
    return given.get(key, default)


def _write_vision(config: CLIPConfig) -> dict[str, Any]:
    vision = config.vision
    if isinstance(vision, ModifiedResNetConfig):
        return {
            "image_size": vision.image_size,
            "layers": list(vision.layers),
            "width": vision.width,
            "head_width": vision.width * 32 // vision.num_heads,
            "patch_size": None,
        }
    if not isinstance(vision, ViTConfig):
        raise ConfigError(
            f"open_clip has no image tower of kind {vision.kind!r}; of ours it has 'vit' and "
            "'modified_resnet'"
        )
    if vision.readout == "map":
        return to_timm_siglip(vision)
    heads = vision.layers()[0].num_heads if vision.num_layers else 1
    written = {
        "layers": vision.num_layers,
        "width": vision.width,
        "head_width": vision.width // heads,
        "mlp_ratio": _find_mlp_ratio(vision),
        "ls_init_value": vision.layer_scale_init,
        "no_ln_pre": not vision.pre_norm,
        "pos_embed_type": "sin_cos_2d" if vision.position == "sin_cos" else "learnable",
        "pool_type": "tok" if vision.readout == "class_token" else "avg",
        "final_ln_after_pool": vision.norm_after_readout,
        **_write_arguments(vision.activation, vision.layer_norm_eps),
    }
    return {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        **_drop_defaults(written, _VISION),
    }


def _write_text(text: TextConfig) -> dict[str, Any]:
    pool_type: str = text.readout
    if text.readout == "end_token":
        is_largest = text.eot_token_id is None and text.end_token_id == text.vocab_size - 1
        pool_type = "argmax" if is_largest else "eos"
    tokenizer = text.tokenizer or TokenizerConfig()
    return {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "hf_tokenizer_name": None if tokenizer.name == "clip" else tokenizer.name,
        "tokenizer_kwargs": tokenizer.options or None,
        "width": text.width,
        "heads": text.layers()[0].num_heads if text.num_layers else 1,
        "layers": text.num_layers,
        "mlp_ratio": _find_mlp_ratio(text),
        "ls_init_value": text.layer_scale_init,
        "eos_id": text.end_token_id if pool_type == "eos" else 2,
        "no_causal_mask": not text.causal,
        "pool_type": pool_type,
        "proj_bias": text.projection == "linear_bias",
        "proj_type": "none" if text.projection == "none" else "linear",
        **_write_arguments(text.activation, text.layer_norm_eps),
    }


def _find_mlp_ratio(config: TransformerConfig) -> float:
    """The ratio of the MLP width: the config's, or one of four digits that gives its width."""
    if not config.num_layers:
        return config.mlp_ratio
    hidden = config.layers()[0].mlp_width
    if int(config.width * config.mlp_ratio) == hidden:
        return config.mlp_ratio
    return math.ceil(hidden / config.width * 10_000) / 10_000


def _write_arguments(activation: Activation, epsilon: float) -> dict[str, Any]:
    return {
        "act_kwargs": {"approximate": "tanh"} if activation == "gelu_tanh" else None,
        "norm_kwargs": None if epsilon == 1e-5 else {"eps": epsilon},
    }


def _drop_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    always = ("context_length", "vocab_size", "width", "heads", "layers")
    return {k: value for k, value in values.items() if k in always or value != defaults[k]}

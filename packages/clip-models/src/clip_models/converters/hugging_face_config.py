"""`config.json` of transformers' `CLIPModel`, `SiglipModel` and `Siglip2Model` (NaFlex)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.strict import as_table
from clip_models.config.towers import Activation, TextConfig, TransformerConfig, ViTConfig
from clip_models.converters.equivalence import require_same
from clip_models.errors import ConfigError

_ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_NAME_OF_ACTIVATION = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}

_ARCHITECTURES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}
_NAFLEX = {"native": True, "position_interpolation": "bilinear"}

# transformers' defaults.
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
}
_CLIP_VISION = {
    **_VISION_DEFAULTS,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_CLIP_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_SIGLIP_VISION = {
    **_VISION_DEFAULTS,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
_SIGLIP_TEXT = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_SIGLIP2_PATCHES = 256
"""`num_patches` of NaFlex, of which the table of positions is a square."""
_OLD_EOS = 2
"""`eos_token_id` in files of transformers before 4.31, which ignored it and took the largest id."""


def from_hugging_face_config(values: Mapping[str, Any]) -> CLIPConfig:
    """Our config of a `config.json` with `model_type` "clip", "siglip" or "siglip2".

    Raises:
        ConfigError: It describes another model, or an unknown variant.
    """
    kind = as_table(values, "config").get("model_type")
    if kind == "clip":
        vision, text = _read_sections(values, _CLIP_VISION, _CLIP_TEXT)
        return _read_clip(vision, text, values)
    if kind == "siglip":
        vision, text = _read_sections(values, _SIGLIP_VISION, _SIGLIP_TEXT)
        return _read_siglip(vision, text, {})
    if kind == "siglip2":
        vision, text = _read_sections(values, _SIGLIP_VISION, _SIGLIP_TEXT)
        return _read_siglip({**vision, **_read_table(vision)}, text, _NAFLEX)
    raise ConfigError(f"model_type must be 'clip', 'siglip' or 'siglip2', got {kind!r}")


def to_hugging_face_config(config: CLIPConfig) -> dict[str, Any]:
    """The `config.json` with which transformers builds the same model.

    Raises:
        ConfigError: None of `CLIPModel`, `SiglipModel` and `Siglip2Model` can be this model; the
            message says why.
    """
    vision, text = config.vision, config.text
    if not isinstance(vision, ViTConfig):
        raise ConfigError(
            f"transformers has no CLIP with a {vision.kind} tower; it has those of kind 'vit', and "
            "open_clip (--to open-clip) those of kind 'modified_resnet' too"
        )
    siglip = vision.readout == "map"
    is_largest = text.eot_token_id is None and text.end_token_id == text.vocab_size - 1
    kind = ("siglip2" if vision.native else "siglip") if siglip else "clip"
    patches = vision.grid[0] * vision.grid[1]
    size = {"num_patches": patches} if kind == "siglip2" else {"image_size": vision.image_side}
    vision_values = {
        "model_type": f"{kind}_vision_model",
        **size,
        "patch_size": vision.patch_size,
        "num_channels": 3,
        **_write_transformer(vision),
    }
    text_values = {
        "model_type": f"{kind}_text_model",
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "bos_token_id": max(0, text.vocab_size - 2),
        "eos_token_id": _OLD_EOS if is_largest else text.end_token_id,
        **_write_transformer(text),
    }
    values: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        "vision_config": vision_values,
        "text_config": text_values,
    }
    if siglip:
        text_values["projection_size"] = config.embed_dim
    else:
        values["logit_scale_init_value"] = config.init_logit_scale
        for part in (values, vision_values, text_values):
            part["projection_dim"] = config.embed_dim
    require_same(config, from_hugging_face_config(values), f"transformers' {kind} model")
    return values


def _read_sections(
    values: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of both towers, with the defaults of transformers.

    Older files of `CLIPModel` hold a tower twice; transformers reads `text_config_dict`.
    """
    sections = []
    for name, defaults in (("vision_config", vision), ("text_config", text)):
        given = values.get(f"{name}_dict") if values["model_type"] == "clip" else None
        given = values.get(name) or {} if given is None else given
        sections.append({**defaults, **as_table(given, name)})
    return sections[0], sections[1]


def _read_clip(
    vision: Mapping[str, Any], text: Mapping[str, Any], values: Mapping[str, Any]
) -> CLIPConfig:
    end = _read_integer(text, "eos_token_id")
    return CLIPConfig(
        embed_dim=_read_integer({"projection_dim": 512, **values}, "projection_dim"),
        vision=ViTConfig(**_read_vision(vision)),
        text=TextConfig(**_read_text(text), eot_token_id=None if end == _OLD_EOS else end),
        init_logit_scale=_read_number(
            {"logit_scale_init_value": 2.6592, **values}, "logit_scale_init_value"
        ),
    )


def _read_table(vision: Mapping[str, Any]) -> dict[str, int]:
    """The image size that has as many patches as the table of positions, a square."""
    patches = _read_integer({"num_patches": _SIGLIP2_PATCHES, **vision}, "num_patches")
    side = math.isqrt(max(0, patches))
    if side < 1 or side**2 != patches:
        raise ConfigError(f"vision_config.num_patches must be a square number, got {patches}")
    return {"image_size": side * _read_integer(vision, "patch_size")}


def _read_siglip(
    vision: Mapping[str, Any], text: Mapping[str, Any], variant: Mapping[str, Any]
) -> CLIPConfig:
    if vision["vision_use_head"] is not True:
        raise ConfigError("vision_config.vision_use_head must be true; the head gives the feature")
    given = text.get("projection_size") is not None
    embed_dim = _read_integer(text, "projection_size" if given else "hidden_size")
    return CLIPConfig(
        embed_dim=embed_dim,
        vision=ViTConfig(
            **_read_vision(vision),
            patch_bias=True,
            class_token=False,
            pre_norm=False,
            readout="map",
            projection="none",
            **variant,
        ),
        text=TextConfig(**_read_text(text), causal=False, readout="last", projection="linear_bias"),
        init_logit_scale=0.0,
        init_logit_bias=0.0,
    )


def _read_vision(values: Mapping[str, Any]) -> dict[str, Any]:
    if values["num_channels"] != 3:
        raise ConfigError(f"vision_config.num_channels must be 3, got {values['num_channels']!r}")
    sizes = {key: _read_integer(values, key) for key in ("image_size", "patch_size")}
    return {**sizes, **_read_transformer(values)}


def _read_text(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "context_length": _read_integer(values, "max_position_embeddings"),
        "vocab_size": _read_integer(values, "vocab_size"),
        **_read_transformer(values),
    }


def _read_transformer(values: Mapping[str, Any]) -> dict[str, Any]:
    name = values["hidden_act"]
    if name not in _ACTIVATIONS:
        raise ConfigError(f"hidden_act must be one of {', '.join(_ACTIVATIONS)}, got {name!r}")
    return {
        "width": _read_integer(values, "hidden_size"),
        "num_layers": _read_integer(values, "num_hidden_layers"),
        "num_heads": _read_integer(values, "num_attention_heads"),
        **_read_mlp(
            _read_integer(values, "hidden_size"), _read_integer(values, "intermediate_size")
        ),
        "activation": _ACTIVATIONS[name],
        "layer_norm_eps": _read_number(values, "layer_norm_eps"),
    }


def _read_mlp(width: int, mlp_width: int) -> dict[str, Any]:
    """The ratio, rounded up to four digits as in open_clip's configs, where it gives the width."""
    ratio = math.ceil(mlp_width / max(1, width) * 10_000) / 10_000
    return {"mlp_ratio": ratio} if int(width * ratio) == mlp_width else {"mlp_width": mlp_width}


def _write_transformer(config: TransformerConfig) -> dict[str, Any]:
    """The keys of a tower; where layers differ, the sizes of the first."""
    shape = config.layers()[0]
    return {
        "hidden_size": config.width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": shape.num_heads,
        "hidden_act": _NAME_OF_ACTIVATION[config.activation],
        "layer_norm_eps": config.layer_norm_eps,
        "attention_dropout": 0.0,
    }


def _read_integer(values: Mapping[str, Any], key: str) -> int:
    value = values[key]
    if type(value) is not int:
        raise ConfigError(f"{key} must be an integer, got {value!r}")
    return value


def _read_number(values: Mapping[str, Any], key: str) -> float:
    value = values[key]
    if type(value) not in (int, float):
        raise ConfigError(f"{key} must be a number, got {value!r}")
    return float(value)

"""Whether two configs describe the same computation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.strict import to_dict
from clip_models.config.towers import TransformerConfig
from clip_models.errors import ConfigError

_SIZES = ("num_heads", "head_width", "mlp_ratio", "mlp_width")
_NOT_COMPUTED = ("init_logit_scale", "vision.patch_reduction", "text.tokenizer")
"""Fields that change initialization, training or token ids, but not the computation."""


def require_same(wanted: CLIPConfig, built: CLIPConfig, builder: str) -> None:
    """Check that `builder`, which would build `built`, gives the model `wanted`.

    Raises:
        ConfigError: The two differ; the message names where.
    """
    ours, theirs = _flatten_computed(wanted), _flatten_computed(built)
    different = [key for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)]
    if different:
        shown = "; ".join(f"{key} is {ours.get(key)}, not {theirs.get(key)}" for key in different)
        raise ConfigError(f"{builder} cannot be this model: {shown}")


def _flatten_computed(config: CLIPConfig) -> dict[str, Any]:
    """Every value that changes the computation, under its dotted name."""
    values = _flatten(to_dict(config))
    for name, tower in (("vision", config.vision), ("text", config.text)):
        if isinstance(tower, TransformerConfig):
            for size in _SIZES:
                values.pop(f"{name}.{size}", None)
            for index, layer in enumerate(tower.layers()):
                values[f"{name}.layer {index}"] = tuple(layer)
    if config.text.eot_token_id == replace(config.text, eot_token_id=None).end_token_id:
        values.pop("text.eot_token_id")  # the end token that is found without it
    if values.get("vision.class_token") is False:
        values.pop("vision.class_position")
    if "init_logit_bias" in values:
        values["init_logit_bias"] = "present"
    return {
        key: value
        for key, value in values.items()
        if not any(key == name or key.startswith(f"{name}.") for name in _NOT_COMPUTED)
    }


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat

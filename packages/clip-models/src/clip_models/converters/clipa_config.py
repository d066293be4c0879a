"""Configs in CLIPA's JSON, a dialect of an older open_clip's (Li et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.strict import as_table
from clip_models.config.towers import ViTConfig
from clip_models.converters.open_clip_config import from_open_clip
from clip_models.errors import ConfigError

_VISION_NAMES = {"pos_embed": "pos_embed_type", "n_queries": "attn_pooler_queries"}
_TEXT_NAMES = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}
_TEXT_POOLS = {"open_clip": "argmax", "big_vision_tok": "first", "big_vision_last": "last"}


_OWN_KEYS = {
    "vision_cfg": {"global_average_pool", "pool_style", "gelu_approximate", "ln_pre"},
    "text_cfg": {"pool_style", "gelu_approximate", "text_mask", "bert_tokenizer", "attention_mask"},
}


def is_clipa(values: Mapping[str, Any]) -> bool:
    """Whether a config of open_clip's form has keys that CLIPA alone has."""
    parts = ((values.get(name), keys) for name, keys in _OWN_KEYS.items())
    return any(isinstance(part, Mapping) and bool(keys & part.keys()) for part, keys in parts)


def from_clipa(values: Mapping[str, Any]) -> CLIPConfig:
    """The config in one of CLIPA's JSON files.

    Its `global_average_pool` averages the class token with the patches, unless `pool_style` is
    `big_vision_gap`; its BERT vocabulary is that of `bert-base-uncased` without the last token.

    Raises:
        ConfigError: A key is unknown, or asks for something these modules do not compute.
    """
    vision, text = (
        dict(as_table(as_table(values, "config").get(name, {}), name))
        for name in ("vision_cfg", "text_cfg")
    )
    style = vision.pop("pool_style", "open_clip")
    average = bool(vision.pop("global_average_pool", False))
    pools = {"open_clip": (False, True), "big_vision_tok": (False,), "big_vision_gap": (True,)}
    if average not in pools.get(style, ()):
        raise ConfigError(
            f"vision_cfg.pool_style = {style!r} with global_average_pool = {average} is not a "
            f"pooling of CLIPA; expected a style with one of {pools}"
        )
    if vision.pop("input_patchnorm", False):
        raise ConfigError("vision_cfg.input_patchnorm = true is not computed here; only false is")
    translated = _rename(vision, _VISION_NAMES)
    translated["no_ln_pre"] = not translated.pop("ln_pre", True)
    translated["pool_type"] = "avg" if average else "tok"
    translated["final_ln_after_pool"] = average
    config = from_open_clip({**values, "vision_cfg": translated, "text_cfg": _translate_text(text)})
    if average and style == "open_clip" and isinstance(config.vision, ViTConfig):
        return replace(config, vision=replace(config.vision, readout="average"))
    return config


def _translate_text(values: dict[str, Any]) -> dict[str, Any]:
    style = values.pop("pool_style", "open_clip")
    if style not in _TEXT_POOLS:
        raise ConfigError(
            f"text_cfg.pool_style = {style!r} is unknown; expected one of {list(_TEXT_POOLS)}"
        )
    translated = _rename(values, _TEXT_NAMES)
    translated["pool_type"] = _TEXT_POOLS[style]
    translated["no_causal_mask"] = not translated.pop("attention_mask", True)
    mask = translated.pop("text_mask", "first")
    if mask != "first":
        translated["tokenizer_kwargs"] = {"reduction_mask": mask}
    translated.pop("vocab_path", None)  # where CLIPA's machines had the vocabulary
    if translated.pop("bert_tokenizer", False):
        translated["hf_tokenizer_name"] = "bert-base-uncased"
        translated["tokenizer_kwargs"] = {"strip_sep_token": True}
    return translated


def _rename(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    translated = {names.get(key, key): value for key, value in values.items()}
    if translated.pop("gelu_approximate", "none") == "tanh":
        translated["act_kwargs"] = {"approximate": "tanh"}
    return translated

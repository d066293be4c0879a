"""The model that a config names: its sizes, its weights and its preprocessing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_models import (
    CLIP,
    CheckpointError,
    CLIPConfig,
    ConfigError,
    ModelAndTransforms,
    create_model_and_transforms,
    get_config,
    list_models,
    list_pretrained,
)
from clip_models.config import (
    PreprocessConfig,
    ViTConfig,
    from_dict,
    get_preprocess_config,
    get_pretrained_repository,
    nearest,
    to_dict,
)
from clip_models.files import load_config

from clip_train.config.model import ModelConfig
from clip_train.config.presets import merge

DEFAULT_MODEL = "ViT-B-32"


def resolve_model(model: ModelConfig) -> CLIPConfig:
    """The registered config with `model.vision` and `model.text` laid over it.

    Without a name, that in the directory of `model.pretrained`, where there is one.

    Raises:
        ConfigError: The name is not registered, the directory has no config that can be read, or a
            tower has no such field or value.
    """
    if model.name not in list_models() and Path(model.name or "-").is_dir():
        raise ConfigError(f"model.name {model.name!r} is a directory; give it as model.pretrained")
    if model.name or not model.pretrained:
        return _with_towers(get_config(model.name or DEFAULT_MODEL), model)
    try:
        return _with_towers(load_config(model.pretrained)[0], model)
    except CheckpointError as error:
        raise ConfigError(
            f"{error}; or name the model of model.pretrained with model.name"
        ) from None


def load_pretrained(model: ModelConfig) -> tuple[CLIP, PreprocessConfig]:
    """The model with the weights of `model.pretrained`, and its preprocessing.

    Without a name, the config is the one that came with the weights; with one, only the vocabulary
    and the logit bias are, where the weights are in a model directory of ours.

    Raises:
        ConfigError: There is no such model, field or value.
        CheckpointError: The weights cannot be read, or do not fit.
    """
    if model.name:
        check_weights(model.pretrained, "model.pretrained", name=model.name)
        config = _fit_weights(model.pretrained, resolve_model(model))
        made = create_model_and_transforms(config, _find_published(model))
        if Path(model.pretrained).is_file():  # which says nothing about the images
            return made.model, default_preprocess(model, config)
    else:
        made = load_saved(model.pretrained, "model.pretrained", "model.name")
        if model.vision or model.text:
            config = _with_towers(made.model.config, model)
            made = create_model_and_transforms(config, model.pretrained)
    return made.model, resolve_preprocess(model, made.evaluate.config)


def _find_published(model: ModelConfig) -> str:
    """`model.pretrained`, or the repository that it names as a tag of open_clip."""
    if (model.name, model.pretrained) in list_pretrained(model.name):
        return f"hf-hub:{get_pretrained_repository(model.name, model.pretrained)}"
    return model.pretrained


def load_saved(source: str, key: str, name_key: str) -> ModelAndTransforms:
    """The model in a directory or on the hub, with its weights.

    Args:
        source: The value of `key`.
        key: For messages.
        name_key: The key beside it that names a model.

    Raises:
        ConfigError: It is a file of weights, or a model's name.
        CheckpointError: The weights cannot be read.
    """
    if Path(source).is_file():
        raise ConfigError(f"{key} {source} is a file of weights; name its model with {name_key}")
    if source in list_models() and not Path(source).is_dir():
        raise ConfigError(
            f"{key} {source!r} is a model's name, without weights; give the name as {name_key} "
            f"and weights as {key}"
        )
    check_weights(source, key)
    return create_model_and_transforms(source)


def check_weights(source: str, key: str, *, name: str = "") -> None:
    """Refuse weights that are nowhere, before their model is made.

    Args:
        source: The value of `key`.
        key: For messages.
        name: The model's name, if one was given; its tags are weights too.

    Raises:
        ConfigError: There is no such file, directory or tag.
    """
    tags = [tag for model, tag in list_pretrained(name) if model == name] if name else []
    if source in tags or Path(source).exists() or source.startswith("hf-hub:"):
        return
    hint = "expected a model directory or hf-hub:ORG/NAME"
    hint += f", or for {name} a weight file" if name else ", or with model.name a weight file"
    if tags:
        hint += f" or one of open_clip's tags{nearest(source, tags)}"
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        hint = f"a repository of the hub is written hf-hub:{source}"
    raise ConfigError(f"{key} {source!r}: there is no such file or directory; {hint}")


def _fit_weights(pretrained: str, config: CLIPConfig) -> CLIPConfig:
    """The config for the ids that the weights of a model directory know, and for their bias."""
    try:
        stored = load_config(pretrained)[0]
    except CheckpointError:  # another library's, or none, which reading the weights tells
        return config
    known = stored.text
    text = replace(config.text, vocab_size=known.vocab_size, eot_token_id=known.eot_token_id)
    return replace(config, text=text, init_logit_bias=stored.init_logit_bias)


def _with_towers(config: CLIPConfig, model: ModelConfig) -> CLIPConfig:
    """The config with the settings of its towers, and the scale of its logits.

    Tables are merged key by key; a tower of another `kind` starts from that kind's defaults.
    """
    values = config.to_dict()
    for tower, settings in (("vision", model.vision), ("text", model.text)):
        base: Mapping[str, Any] = values[tower]
        if settings.get("kind", base.get("kind")) != base.get("kind"):
            base = {}
        values[tower] = merge(base, settings)
    if model.logit_scale is not None:
        values["init_logit_scale"] = math.log(model.logit_scale)
    return from_dict(CLIPConfig, values, where="model")


def default_preprocess(model: ModelConfig, config: CLIPConfig) -> PreprocessConfig:
    """The preprocessing of the named model at the config's size, with `model.preprocess` over it.

    Raises:
        ConfigError: There is no such field or value.
    """
    named = get_preprocess_config(model.name or DEFAULT_MODEL)
    base, vision = replace(named, size=config.vision.image_size), config.vision
    if isinstance(vision, ViTConfig) and vision.native:
        base = keep_aspect_ratio(base, vision, vision.grid[0] * vision.grid[1])
    return resolve_preprocess(model, base)


def keep_aspect_ratio(
    base: PreprocessConfig, vision: ViTConfig, max_tokens: int
) -> PreprocessConfig:
    """`base` for images of their own shape, of at most so many patches."""
    return replace(base, resize_mode="native", patch_size=vision.patch_size, max_tokens=max_tokens)


def resolve_preprocess(model: ModelConfig, base: PreprocessConfig) -> PreprocessConfig:
    """`base` with `model.preprocess` laid over it.

    Raises:
        ConfigError: There is no such field or value.
    """
    try:
        return from_dict(PreprocessConfig, merge(to_dict(base), model.preprocess))
    except ConfigError as error:
        raise ConfigError(f"model.preprocess: {error}") from None

"""From a config to the parts of a run: data, tokenizer, model, plan."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from clip_eval.data import TEMPLATES_FILE, BadSample, Source
from clip_models import CLIP, CLIPConfig, ConfigError, Preprocess
from clip_models.config import PreprocessConfig
from clip_models.devices import choose_device
from clip_tokenizer import Tokenizer

from clip_train.config.run import Config
from clip_train.data.mixing import make_order
from clip_train.data.sources import open_training_source, open_validation_source
from clip_train.model.loading import load_pretrained, resolve_model, resolve_preprocess
from clip_train.optim.optimizer import steps_of
from clip_train.plan.batch_schedule import make_schedule
from clip_train.plan.sample_plan import SamplePlan
from clip_train.randomness import keyed_permutation

MAX_TOKENIZER_CAPTIONS = 20_000


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of."""

    source: Source
    val_source: Source | None
    templates: tuple[str, ...]
    tokenizer: Tokenizer
    model: CLIP
    preprocess: Preprocess
    plan: SamplePlan
    total_steps: int

    def save_prompting(self, directory: Path) -> None:
        """Write the tokenizer and the templates beside a model, with which it is evaluated."""
        self.tokenizer.save(directory)
        if self.templates:
            text = "".join(f"{template}\n" for template in self.templates)
            (directory / TEMPLATES_FILE).write_text(text, encoding="utf-8")


def build(
    config: Config,
    *,
    device: torch.device | None = None,
    tokenizer: Tokenizer | None = None,
    pretrained: tuple[CLIP, PreprocessConfig] | None = None,
) -> Parts:
    """Open the data and make everything else; the same config gives the same parts.

    Args:
        config: The whole configuration.
        device: Where the model goes; by default the config says where.
        tokenizer: A saved one, to go on with; by default the config says which.
        pretrained: A model to go on with; by default what `model.pretrained` names, if anything.

    Raises:
        ConfigError: The config asks for something that does not exist or does not fit.
        DataError: The data cannot be used.
    """
    if not config.data.train:
        raise ConfigError("data.train is not set; give one, as in --data.train imagefolder:DIR")
    if pretrained is None and config.model.pretrained:
        pretrained = load_pretrained(config.model)
    clip_config = pretrained[0].config if pretrained else resolve_model(config.model)
    if config.loss.kind == "sigmoid" and clip_config.init_logit_bias is None:
        clip_config = _with_logit_bias(config, clip_config)
    source = open_training_source(config.data)
    for fault in source.faults:
        warnings.warn(str(fault), stacklevel=2)
    val_source = open_validation_source(config.data)
    if config.augment.kind == "shift" and config.augment.pad >= clip_config.vision.image_size:
        raise ConfigError(
            "augment.pad must be below the model's image size, "
            f"{clip_config.vision.image_size}, got {config.augment.pad}"
        )
    plan = make_plan(config, source, image_size=clip_config.vision.image_size)
    if tokenizer is None:
        tokenizer = make_tokenizer(config, source, clip_config.text.context_length)
    clip_config = _fit_text_tower(clip_config, tokenizer)
    if pretrained is None:
        torch.manual_seed(config.train.seed)
        model = CLIP(clip_config)
        size = clip_config.vision.image_size
        preprocess = resolve_preprocess(config.model, PreprocessConfig(size=size))
    else:
        model, preprocess = pretrained
        _check_vocabulary(config, model, tokenizer)
    model = model.to(device or choose_device(config.train.device, setting="train.device"))
    model = model.to(memory_format=torch.channels_last)
    return Parts(
        source=source,
        val_source=val_source,
        templates=_evaluation_templates(config, source, val_source),
        tokenizer=tokenizer,
        model=model,
        preprocess=Preprocess(preprocess),
        plan=plan,
        total_steps=_total_steps(config, plan),
    )


def make_plan(config: Config, source: Source, *, image_size: int) -> SamplePlan:
    """Which samples of the source make which batch; `image_size` is the model's own."""
    data, train = config.data, config.train
    order = make_order(
        source,
        data.weights,
        seed=train.seed,
        streams=data.shuffle_streams,
        buffer=data.shuffle_buffer,
    )
    schedule = make_schedule(
        order.num_samples, train.batch_size, image_size, data.variable_sizes, train.seed
    )
    return SamplePlan(order, schedule)


def _with_logit_bias(config: Config, clip_config: CLIPConfig) -> CLIPConfig:
    """SigLIP's first scale and bias (Zhai et al. 2023, section 3.2) for a model without a bias."""
    if config.model.pretrained:
        raise ConfigError(
            f"loss.kind 'sigmoid' needs a model with a logit bias, and {config.model.pretrained} "
            "has none; start from weights that have one, or without model.pretrained"
        )
    return replace(clip_config, init_logit_scale=math.log(10), init_logit_bias=-10.0)


def _check_vocabulary(config: Config, model: CLIP, tokenizer: Tokenizer) -> None:
    """Find out now whether the model was trained with another tokenizer."""
    text, path = model.config.text, config.model.pretrained
    end = text.vocab_size - 1 if text.eot_token_id is None else text.eot_token_id
    remedy = "give the model's own, as in --tokenizer.kind directory --tokenizer.path DIR"
    if config.tokenizer.kind == "train":  # ids of another vocabulary of the same size would fit
        raise ConfigError(
            f"tokenizer.kind 'train' learns a vocabulary that {path} was not trained with; {remedy}"
        )
    if (tokenizer.vocab_size, tokenizer.eot_token_id) != (text.vocab_size, end):
        raise ConfigError(
            f"{path} was trained with {text.vocab_size} tokens and end token {end}, "
            f"the tokenizer has {tokenizer.vocab_size} and {tokenizer.eot_token_id}; {remedy}"
        )


def make_tokenizer(config: Config, source: Source, context_length: int) -> Tokenizer:
    """The tokenizer that the config describes, learned from the source's captions if it says so."""
    kind = config.tokenizer.kind
    if kind == "openai":
        return Tokenizer.openai(context_length=context_length)
    if kind == "bytes":
        return Tokenizer.from_bytes(context_length=context_length)
    if kind == "directory":
        given = config.model.pretrained or "context_length" in config.model.text
        options = {"context_length": context_length} if given else {}
        return Tokenizer.from_pretrained(config.tokenizer.path, **options)
    return Tokenizer.train(
        _sample_captions(source, config.train.seed),
        config.tokenizer.vocab_size,
        context_length=context_length,
    )


def _sample_captions(source: Source, seed: int) -> Iterable[str]:
    """Captions of up to MAX_TOKENIZER_CAPTIONS samples, in a keyed order."""
    if source.classnames and source.templates:
        for name, template in itertools.product(source.classnames, source.templates):
            yield template.replace("{c}", name)
        return
    order = keyed_permutation(seed, 0, len(source), "tokenizer")
    for index in np.sort(order[:MAX_TOKENIZER_CAPTIONS]).tolist():
        try:
            yield from source.read(index).captions
        except BadSample:
            continue  # counted when training meets it


def _evaluation_templates(
    config: Config, source: Source, val_source: Source | None
) -> tuple[str, ...]:
    """Prompts for evaluation, saved with the run: the config's, or those of the data."""
    if config.data.templates:
        return config.data.templates
    if val_source is not None and val_source.templates:
        return val_source.templates
    return source.templates or ()


def _fit_text_tower(config: CLIPConfig, tokenizer: Tokenizer) -> CLIPConfig:
    text = replace(
        config.text,
        vocab_size=tokenizer.vocab_size,
        context_length=tokenizer.context_length,
        eot_token_id=tokenizer.eot_token_id,
    )
    return replace(config, text=text)


def _total_steps(config: Config, plan: SamplePlan) -> int:
    if config.train.steps is not None:
        return config.train.steps
    if config.train.samples is not None:
        return steps_of(0, config.train.samples, config.train.batch_size)
    if config.train.epochs is None:
        raise ConfigError(
            "the length of the run is not set; give train.steps, train.samples or train.epochs"
        )
    return max(1, plan.steps_in_epochs(config.train.epochs))

"""The data side of a run: sources, tokenizer, preprocessing, sample plan and reader."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from clip_eval.data import TEMPLATES_FILE, Source
from clip_models import CLIP, CLIPConfig, ConfigError, Preprocess
from clip_models.config import PreprocessConfig, ViTConfig
from clip_tokenizer import Tokenizer

from clip_train.config.run import Config
from clip_train.config.training import OptimConfig
from clip_train.data.batches import BatchReader
from clip_train.data.holdout import split_holdout
from clip_train.data.mixing import make_order
from clip_train.data.sample_sizes import read_sample_sizes
from clip_train.data.sources import open_training_source
from clip_train.data.tokenizers import check_vocabulary, make_tokenizer
from clip_train.data.validation import (
    ValidationSet,
    WatchedMetric,
    choose_set_templates,
    open_validation_sets,
    resolve_metric,
    saved_templates,
)
from clip_train.engine.native_setup import (
    check_native,
    choose_preprocess,
    make_token_schedule,
)
from clip_train.logs.files import write_lines
from clip_train.model.loading import default_preprocess, resolve_model
from clip_train.optim.learning_rate import resolve_steps
from clip_train.optim.schedule import in_steps
from clip_train.plan.batch_schedule import make_schedule
from clip_train.plan.sample_order import SampleOrder
from clip_train.plan.sample_plan import SamplePlan


@dataclass(frozen=True, kw_only=True)
class DataComponents:
    """What a run knows before there is a model or a device.

    Attributes:
        config: The run's.
        source: Training samples.
        val_sets: Data to evaluate on, if any.
        watched: The metric that says which model is the best, if the config names one.
        templates: Prompts that are saved with the model; empty for none.
        tokenizer: Of captions and prompts.
        preprocess: From an image to the model's pixels.
        clip_config: The model's config, fitted to the tokenizer.
        plan: Which samples make which batch.
        total_steps: Steps of the run.
        optim: The optimizer's config with lengths in steps.
    """

    config: Config
    source: Source
    val_sets: tuple[ValidationSet, ...]
    watched: WatchedMetric | None
    templates: tuple[str, ...]
    tokenizer: Tokenizer
    preprocess: Preprocess
    clip_config: CLIPConfig
    plan: SamplePlan
    total_steps: int
    optim: OptimConfig

    def make_reader(
        self, *, rank: int = 0, world_size: int = 1, progress: bool = False, cache: bool = True
    ) -> BatchReader:
        """A reader of this rank's batches; without `cache` it decodes no image before it is asked.

        Raises:
            DataError: The data cannot be used.
        """
        config = self.config
        if not cache:
            config = replace(config, data=replace(config.data, cache_images=False))
        return BatchReader(
            *(self.source, self.plan, config, self.preprocess, self.tokenizer),
            rank=rank,
            world_size=world_size,
            progress=progress,
        )

    def save_prompts(self, directory: Path) -> None:
        """Write tokenizer and templates into a model directory, for its evaluation."""
        self.tokenizer.save(directory)
        if self.templates:
            write_lines(directory / TEMPLATES_FILE, self.templates)


def build_data_components(
    config: Config,
    *,
    tokenizer: Tokenizer | None = None,
    pretrained: tuple[CLIP, PreprocessConfig] | None = None,
) -> DataComponents:
    """Open the data and plan the run; the same config gives the same plan.

    Args:
        config: The whole configuration.
        tokenizer: A saved tokenizer to continue with; by default the config says which.
        pretrained: The model to continue with and its preprocessing, if there is one.

    Raises:
        ConfigError, DataError: The config or the data cannot be used.
    """
    if not config.data.train:
        raise ConfigError("data.train is not set; give one, as in --data.train imagefolder:DIR")
    clip_config = _initial_clip_config(config, pretrained)
    source = open_training_source(config.data)
    for message in (*map(str, source.faults), *source.warnings):
        warnings.warn(message, stacklevel=2)
    held = None
    if config.data.holdout:
        source, held = split_holdout(source, config.data.holdout)
    val_sets = open_validation_sets(config, held)
    templates = saved_templates(config, source, val_sets)
    if tokenizer is None:
        tokenizer = make_tokenizer(config, source, clip_config.text.context_length)
    if config.data.token_budget is None:
        plan = make_plan(config, source, image_size=clip_config.vision.image_side)
    else:
        plan = make_token_plan(config, source, clip_config, tokenizer)
    if pretrained is None:
        names = ("vocab_size", "context_length", "eot_token_id")
        text = replace(clip_config.text, **{name: getattr(tokenizer, name) for name in names})
        clip_config = replace(clip_config, text=text)
    else:
        check_vocabulary(config, clip_config, tokenizer)
    total_steps = _total_steps(config, plan)
    return DataComponents(
        config=config,
        source=source,
        val_sets=tuple(choose_set_templates(one, templates, config.data) for one in val_sets),
        watched=resolve_metric(config.eval.metric, val_sets),
        templates=templates,
        tokenizer=tokenizer,
        preprocess=_preprocess(config, clip_config, pretrained),
        clip_config=clip_config,
        plan=plan,
        total_steps=total_steps,
        optim=in_steps(config.optim, config.train.batch_size, plan.steps_in_epochs, total_steps),
    )


def make_plan(config: Config, source: Source, *, image_size: int) -> SamplePlan:
    """Which samples of the source make which batch, for a model with images of `image_size`."""
    data, train = config.data, config.train
    order = _order(config, source)
    schedule = make_schedule(
        order.num_samples, train.batch_size, image_size, data.variable_sizes, train.seed
    )
    return SamplePlan(order, schedule)


def make_token_plan(
    config: Config, source: Source, clip_config: CLIPConfig, tokenizer: Tokenizer
) -> SamplePlan:
    """Which samples make which batch of `data.token_budget` tokens; reads the size of every image.

    Raises:
        ConfigError: The budget holds no sample, or more than the data has.
    """
    order = _order(config, source)
    assert isinstance(clip_config.vision, ViTConfig)
    sizes = read_sample_sizes(source, tokenizer, progress=False)
    schedule = make_token_schedule(config.data, clip_config.vision, order, sizes, config.train.seed)
    return SamplePlan(order, schedule)


def _order(config: Config, source: Source) -> SampleOrder:
    data = config.data
    return make_order(
        source,
        data.weights,
        seed=config.train.seed,
        streams=data.shuffle_streams,
        buffer=data.shuffle_buffer,
    )


def _initial_clip_config(
    config: Config, pretrained: tuple[CLIP, PreprocessConfig] | None
) -> CLIPConfig:
    """The model's config before the tokenizer is known.

    Raises:
        ConfigError: The loss or the augmentation does not go with the model.
    """
    clip_config = pretrained[0].config if pretrained else resolve_model(config.model)
    if config.loss.kind == "sigmoid" and clip_config.init_logit_bias is None:
        clip_config = _add_logit_bias(config, clip_config)
    check_native(config, clip_config)
    image_size, augment = clip_config.vision.image_side, config.augment
    if augment.kind == "shift" and augment.pad >= image_size:
        raise ConfigError(
            f"augment.pad must be below the model's image size, {image_size}, got {augment.pad}"
        )
    return clip_config


def _preprocess(
    config: Config, clip_config: CLIPConfig, pretrained: tuple[CLIP, PreprocessConfig] | None
) -> Preprocess:
    """The pretrained model's preprocessing, or that of the named model."""
    if pretrained is not None:
        preprocess = pretrained[1]
    else:
        preprocess = default_preprocess(config.model, clip_config)
    return Preprocess(choose_preprocess(config, clip_config, preprocess))


def _add_logit_bias(config: Config, clip_config: CLIPConfig) -> CLIPConfig:
    """SigLIP's first scale and bias (Zhai et al. 2023, section 3.2) for a model without a bias."""
    if config.model.pretrained:
        raise ConfigError(
            f"loss.kind 'sigmoid' needs a model with a logit bias, and {config.model.pretrained} "
            "has none; start from weights that have one, or without model.pretrained"
        )
    given = config.model.logit_scale is not None
    scale = clip_config.init_logit_scale if given else math.log(10)
    return replace(clip_config, init_logit_scale=scale, init_logit_bias=-10.0)


def _total_steps(config: Config, plan: SamplePlan) -> int:
    if config.train.steps is not None:
        return config.train.steps
    if config.train.samples is not None:
        return resolve_steps(0, config.train.samples, config.train.batch_size)
    if config.train.epochs is None:
        raise ConfigError(
            "the length of the run is not set; give train.steps, train.samples or train.epochs"
        )
    return max(1, plan.steps_in_epochs(config.train.epochs))

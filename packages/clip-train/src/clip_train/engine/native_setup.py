"""What a run with a token budget is made of: its schedule, its preprocessing, and what it lacks."""

from __future__ import annotations

import numpy as np
from clip_models import CLIPConfig, ConfigError
from clip_models.config import PreprocessConfig, ViTConfig, require

from clip_train.config.data import DataConfig
from clip_train.config.run import Config
from clip_train.model.loading import keep_aspect_ratio
from clip_train.plan.sample_order import SampleOrder
from clip_train.plan.token_batches import UNIT, SampleSizes, TokenBatches, count_patches


def check_native(config: Config, clip_config: CLIPConfig) -> None:
    """Check that a model for images of their own shape gets them, and that the rest goes with it.

    Raises:
        ConfigError: It does not.
    """
    vision = clip_config.vision
    is_native = isinstance(vision, ViTConfig) and vision.native
    budget, augment = config.data.token_budget, config.augment
    if is_native != (budget is not None):
        raise ConfigError(
            "model.vision.native, which only vision transformers have, goes with "
            f"data.token_budget; got native {is_native} and token_budget {budget}"
        )
    if budget is None:
        return
    require(
        augment.kind != "shift" and not augment.range.enabled,
        "data.token_budget goes with augment.kind 'none' and 'random_resized_crop', not with "
        "'shift' and augment.range, which need images of one shape",
    )
    require(
        config.train.overfit_batch is None,
        "data.token_budget fills batches by tokens, and train.overfit_batch by samples; leave one "
        "of them out",
    )
    require(
        not config.train.compile and config.train.backend != "xla",
        "data.token_budget makes batches of ever new shapes, each of which train.compile and the "
        "backend 'xla' would compile; leave them out",
    )


def sequence_lengths(data: DataConfig, vision: ViTConfig) -> tuple[int, ...]:
    """The numbers of patches that an image has at most, one of which each step draws."""
    return data.sequence_lengths or (vision.grid[0] * vision.grid[1],)


def make_token_schedule(
    data: DataConfig, vision: ViTConfig, order: SampleOrder, sizes: SampleSizes, seed: int
) -> TokenBatches:
    """Batches of `data.token_budget` tokens.

    A sample costs the patches that training keeps of its image, the class token, and the tokens of
    its caption times `data.caption_weight`.
    """
    assert data.token_budget is not None
    lengths = sequence_lengths(data, vision)
    captions = np.rint(UNIT * data.caption_weight * sizes.caption_tokens).astype(np.int64)
    kept = 1.0 if vision.patch_reduction is None else vision.patch_reduction.keep_ratio
    costs = []
    for length in lengths:
        patches = count_patches(sizes.pixels, vision.patch_size, length)
        tokens = np.maximum(1, np.floor(patches * kept)) + vision.class_token
        costs.append(UNIT * tokens.astype(np.int64) + captions)
    return TokenBatches(
        order, np.stack(costs), lengths, data.sequence_shares, data.token_budget, seed
    )


def choose_preprocess(
    config: Config, clip_config: CLIPConfig, preprocess: PreprocessConfig
) -> PreprocessConfig:
    """The preprocessing of a run: with a token budget, images keep their aspect ratio.

    Evaluation has as many patches as the longest images of training, unless `model.preprocess` or
    the pretrained model says another number.
    """
    vision = clip_config.vision
    if config.data.token_budget is None or not isinstance(vision, ViTConfig):
        return preprocess
    is_set = "max_tokens" in config.model.preprocess
    if preprocess.resize_mode == "native" and (is_set or config.model.pretrained):
        return preprocess
    return keep_aspect_ratio(preprocess, vision, max(sequence_lengths(config.data, vision)))

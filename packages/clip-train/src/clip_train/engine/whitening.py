"""A whitening stem from the training images, before the first step."""

from __future__ import annotations

import numpy as np
import torch
from clip_eval.data import BadSample
from clip_models import CLIP, ConfigError
from clip_models.config import WhitenedCNNConfig
from torch import Tensor

from clip_train.config.data import AugmentConfig
from clip_train.data.decoding import PixelReader
from clip_train.engine.data_components import DataComponents

MAX_TRIES = 2  # samples read for each image that is wanted


def whiten_stem(model: CLIP, data: DataComponents) -> None:
    """Compute the image tower's first layer, if it has one that whitens patches.

    The images are the first `model.whitening_images` of the first epoch's order, not augmented, so
    that the layer follows from the data and the seed. A checkpoint holds it, like all weights.

    Raises:
        ConfigError: The samples have no order.
        DataError: No image can be read.
    """
    vision = model.config.vision
    if not isinstance(vision, WhitenedCNNConfig) or vision.stem != "whitening":
        return
    if data.config.data.order == "stream":
        raise ConfigError(
            "a whitening stem is computed from samples in the order of the plan, which data.order "
            "'stream' does not have; use order 'exact', or model.vision.stem = 'trained'"
        )
    model.visual.whiten(_read_images(data, data.config.model.whitening_images))  # type: ignore[operator]


def _read_images(data: DataComponents, count: int) -> Tensor:
    """Normalized images (N, 3, S, S); samples that cannot be used are passed over."""
    order, config = data.plan.order, data.config
    count = min(count, order.num_samples)
    reader = PixelReader(data.source, data.preprocess, AugmentConfig(), config.data)
    images: list[Tensor] = []
    for index in order.indices(0, np.arange(min(MAX_TRIES * count, order.num_samples))).tolist():
        if len(images) == count:
            break
        try:
            _, pixels = reader.read(index, (), data.preprocess.config.side)
        except BadSample:
            continue
        images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    if not images:
        return torch.zeros(1, 3, *data.clip_config.vision.image_sides)
    return data.preprocess.normalize(torch.stack(images))

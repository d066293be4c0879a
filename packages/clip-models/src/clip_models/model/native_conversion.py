"""A model for images of their own shape, with the weights of one for images of one shape."""

from __future__ import annotations

import copy
from dataclasses import replace

from clip_models.config.towers import ViTConfig
from clip_models.errors import ConfigError
from clip_models.model.clip import CLIP
from clip_models.model.vision_transformer import VisionTransformer


def convert_to_native(model: CLIP) -> CLIP:
    """A copy of the model that takes images in their own aspect ratio, as `NativeImages`.

    Weights are the same, and so are the features of images of `image_size`. Positions are
    interpolated to the grid of each image by the rule of the model's config.

    Raises:
        ConfigError: The image tower is no vision transformer.
    """
    if not isinstance(model.visual, VisionTransformer):
        raise ConfigError(
            "images of their own shape need a vision transformer, got "
            f"{model.config.vision.kind!r}; convolutional towers take (B, 3, H, W)"
        )
    native = copy.deepcopy(model)
    assert isinstance(native.config.vision, ViTConfig)
    assert isinstance(native.visual, VisionTransformer)
    vision = replace(native.config.vision, native=True)
    native.config, native.visual.config = replace(native.config, vision=vision), vision
    return native

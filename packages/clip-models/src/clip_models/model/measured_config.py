"""The config of a model whose layers were cut in place, inferred from the shapes of its weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.towers import (
    LayerShape,
    ModifiedResNetConfig,
    PerLayer,
    PoolingConfig,
    TextConfig,
    TransformerConfig,
    ViTConfig,
)
from clip_models.errors import ConfigError
from clip_models.model.clip import CLIP
from clip_models.model.modified_resnet import ModifiedResNet
from clip_models.model.transformer import ResidualBlock, Transformer
from clip_models.model.vision_transformer import LatentAttentionPool, VisionTransformer

T = TypeVar("T", bound=TransformerConfig)
V = TypeVar("V", ViTConfig, ModifiedResNetConfig)
STRIDE = 32
"""Pixels of an image for each place of the map of a ModifiedResNet."""


def infer_config(model: CLIP) -> CLIPConfig:
    """The config with which `CLIP(config)` loads the model's weights, inferred from their shapes.

    Where layers, heads, hidden units or part of the width were removed from a model in place, as by
    osf-supernet, `model.config` still has the sizes that it was built with.

    Raises:
        ConfigError: No config has these shapes: a convolutional tower was cut, or heads of a
            layer have different widths.
    """
    measured = measure_config(model)
    with torch.device("meta"):
        expected = CLIP(measured).state_dict()
    state = model.state_dict()
    for name in sorted(state.keys() | expected.keys()):
        shapes = [tuple(part[name].shape) if name in part else None for part in (state, expected)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"no config has these shapes: {name} is {shapes[0]}, expected {shapes[1]} beside "
                "the others; heads, hidden units, layers and the width of a transformer may differ"
            )
    return measured


def measure_config(model: CLIP) -> CLIPConfig:
    """The model's config with the sizes that its weights have; other sizes are not checked."""
    config, vision, tower = model.config, model.config.vision, model.visual
    if isinstance(vision, ViTConfig) and isinstance(tower, VisionTransformer):
        vision = _measure_transformer(vision, tower.transformer, len(tower.ln_post.weight))
        if tower.attn_pool is not None:
            vision = _measure_map_readout(vision, tower.attn_pool)
        first = int(vision.class_token and vision.class_position)
        rows = len(cast(Tensor, tower.positional_embedding)) - first
        vision = _measure_image_size(vision, rows, vision.patch_size)
    elif isinstance(vision, ModifiedResNetConfig) and isinstance(tower, ModifiedResNet):
        rows = len(tower.attnpool.positional_embedding) - 1
        vision = _measure_image_size(vision, rows, STRIDE)
    text = _measure_text(model)
    if isinstance(vision, ViTConfig) and vision.pooling is not None:
        vision = replace(vision, pooling=_measure_poolings(vision.pooling, tower.pooling))
    if text.pooling is not None:
        text = replace(text, pooling=_measure_poolings(text.pooling, model.pooling))
    embed_dim = _measure_embedding(model)
    return replace(config, vision=vision, text=text, embed_dim=embed_dim)


def _measure_poolings(config: PoolingConfig, modules: Any, number: int = 0) -> PoolingConfig:
    """The config of poolings with the sizes that they themselves measure."""
    sizes: dict[str, Any] = getattr(modules[number], "measured_sizes", dict)()
    then = config.then and _measure_poolings(config.then, modules, number + 1)
    return replace(config, args={**config.args, **sizes}, then=then)


def _measure_text(model: CLIP) -> TextConfig:
    """The config of the text tower; ids added to the vocabulary leave the end token as it was."""
    text = model.config.text
    text = _measure_transformer(text, model.transformer, len(model.ln_final.weight))
    vocabulary, positions = len(model.token_embedding.weight), len(model.positional_embedding)
    if vocabulary > text.vocab_size and text.readout == "end_token":
        text = replace(text, eot_token_id=text.end_token_id)
    return replace(text, vocab_size=vocabulary, context_length=positions)


def _measure_embedding(model: CLIP) -> int:
    """Width of the embedding space, by the projection of the image tower, else of the text."""
    tower = model.visual
    if isinstance(tower, VisionTransformer):
        last: object = tower.proj
    else:
        last = tower.attnpool.c_proj if isinstance(tower, ModifiedResNet) else tower.proj
    for projection in (last, model.text_projection):
        if isinstance(projection, Tensor) and projection.ndim == 2:
            return projection.shape[1]
        if isinstance(projection, nn.Linear):
            return projection.out_features
    return model.config.embed_dim


def _measure_image_size(config: V, rows: int, patch: int) -> V:
    """The config with the size of images that has so many positions, if it is a square."""
    side = math.isqrt(rows)
    if rows in (0, config.grid[0] * config.grid[1]) or side**2 != rows:
        return config
    return replace(config, image_size=side * patch)


def _measure_transformer(config: T, transformer: Transformer, width: int) -> T:
    """The config with the sizes of the layers, unless they are not plain blocks."""
    blocks = [block for block in transformer.resblocks if _is_plain(block)]
    shapes = tuple(
        LayerShape(block.attn.num_heads, block.attn.head_width, block.mlp.c_fc.out_features)
        for block in blocks
    )
    same = width == config.width and shapes == config.layers()
    if same or len(blocks) != len(transformer.resblocks):
        return config
    heads, head_width, mlp_width = (
        _collapse(tuple(shape[part] for shape in shapes)) for part in range(3)
    )
    default_heads = isinstance(heads, int) and head_width == width / heads
    return replace(
        config,
        width=width,
        num_layers=len(blocks),
        num_heads=heads,
        head_width=None if default_heads else head_width,
        mlp_width=None if mlp_width == int(width * config.mlp_ratio) else mlp_width,
    )


def _is_plain(block: nn.Module) -> TypeGuard[ResidualBlock]:
    """Whether it is a block whose sizes can be read."""
    return isinstance(block, ResidualBlock) and isinstance(block.mlp.c_fc, nn.Linear)


def _measure_map_readout(config: ViTConfig, pool: LatentAttentionPool) -> ViTConfig:
    """The config with the sizes of the readout, which are not cut with the last layer."""
    sizes = (pool.num_heads, pool.mlp.c_fc.out_features)
    if sizes == (config.map_shape.num_heads, config.map_shape.mlp_width):
        return config
    return replace(config, map_num_heads=sizes[0], map_mlp_width=sizes[1])


def _collapse(sizes: tuple[int, ...]) -> PerLayer:
    """One size if all layers have the same."""
    return sizes[0] if len(set(sizes)) == 1 else sizes

"""The config of a model whose layers were made smaller, so that it is a plain model again."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from clip_models.clip import CLIP
from clip_models.config import CLIPConfig, PerLayer, TransformerConfig, ViTConfig
from clip_models.strict_config import ConfigError
from clip_models.transformer import ResidualBlock, Transformer

T = TypeVar("T", bound=TransformerConfig)


def config_of(model: CLIP) -> CLIPConfig:
    """The config that `CLIP(config)` needs to load the model's weights, read from their shapes.

    Where layers, heads, hidden units or the width were taken out of a model in place, as
    osf-supernet does, its `config` still tells the sizes it was built with.

    Raises:
        ConfigError: No config has these shapes: a convolutional tower was cut, or heads of a
            layer have different widths.
    """
    config = model.config
    vision, text = (
        config.vision,
        _measured(config.text, model.transformer, len(model.ln_final.weight)),
    )
    if isinstance(vision, ViTConfig):
        tower = model.visual
        assert isinstance(tower.transformer, Transformer)
        vision = _measured(vision, tower.transformer, len(tower.get_parameter("ln_post.weight")))
    measured = replace(config, vision=vision, text=text)
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


def _measured(config: T, transformer: Transformer, width: int) -> T:
    blocks = [block for block in transformer.resblocks if isinstance(block, ResidualBlock)]
    heads = _short(tuple(block.attn.num_heads for block in blocks))
    head_width: PerLayer | None = _short(tuple(block.attn.head_width for block in blocks))
    mlp_width: PerLayer | None = _short(tuple(block.mlp.c_fc.out_features for block in blocks))
    if isinstance(heads, int) and head_width == width / heads:
        head_width = None
    if mlp_width == int(width * config.mlp_ratio):
        mlp_width = None
    return replace(
        config,
        width=width,
        num_layers=len(blocks),
        num_heads=heads,
        head_width=head_width,
        mlp_width=mlp_width,
    )


def _short(sizes: tuple[int, ...]) -> PerLayer:
    """One size if all layers have it."""
    return sizes[0] if len(set(sizes)) == 1 else sizes

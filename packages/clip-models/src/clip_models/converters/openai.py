"""OpenAI's weights: the same names as ours, three more numbers and no config."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.towers import Activation, ModifiedResNetConfig, TextConfig, ViTConfig
from clip_models.errors import CheckpointError, ConfigError

EXTRAS = ("input_resolution", "context_length", "vocab_size")
"""Names of the numbers that the archives hold beside the weights."""


def make_extras(config: CLIPConfig) -> dict[str, Tensor]:
    """The numbers that OpenAI's archives hold beside the weights."""
    values = (config.vision.image_side, config.text.context_length, config.text.vocab_size)
    return {name: torch.tensor(value) for name, value in zip(EXTRAS, values, strict=True)}


def require_activation(config: CLIPConfig) -> None:
    """Check that a config has the activation that OpenAI's weights were trained with.

    Raises:
        CheckpointError: It has another one, with which features look plausible and are wrong.
    """
    if config.text.activation != "quick_gelu":
        raise CheckpointError(
            "these are OpenAI's weights, trained with the activation quick_gelu, but the "
            f"config has {config.text.activation}; take the model's name with -quickgelu"
        )


def infer_config(
    state: Mapping[str, Tensor], *, activation: Activation = "quick_gelu"
) -> CLIPConfig:
    """The config of OpenAI's weights, which follows from their shapes.

    Heads are 64 wide, as in all of OpenAI's models.

    Args:
        state: The weights, under OpenAI's names.
        activation: The activation, which no shape tells; `quick_gelu` is OpenAI's.

    Raises:
        CheckpointError: The shapes are not those of a CLIP of OpenAI's; the message says where.
    """
    try:
        text_width, embed_dim = state["text_projection"].shape
        vocab_size, _ = state["token_embedding.weight"].shape
        text = TextConfig(
            context_length=len(state["positional_embedding"]),
            vocab_size=vocab_size,
            width=text_width,
            num_layers=_count_layers(state, r"transformer\.resblocks\.(\d+)\."),
            num_heads=text_width // 64,
            activation=activation,
        )
        vision = _infer_vit(state, activation) if "visual.proj" in state else _infer_resnet(state)
        return CLIPConfig(embed_dim=embed_dim, vision=vision, text=text)
    except (KeyError, ValueError, TypeError, ConfigError) as error:
        raise CheckpointError(f"these are not weights of OpenAI's CLIP: {error}") from None


def _infer_vit(state: Mapping[str, Tensor], activation: Activation) -> ViTConfig:
    width, _, patch_size, _ = state["visual.conv1.weight"].shape
    return ViTConfig(
        image_size=_infer_grid(state["visual.positional_embedding"]) * patch_size,
        patch_size=patch_size,
        width=width,
        num_layers=_count_layers(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        num_heads=width // 64,
        activation=activation,
    )


def _infer_resnet(state: Mapping[str, Tensor]) -> ModifiedResNetConfig:
    width = len(state["visual.layer1.0.conv1.weight"])
    one, two, three, four = (
        _count_layers(state, rf"visual\.layer{n}\.(\d+)\.") for n in (1, 2, 3, 4)
    )
    return ModifiedResNetConfig(
        image_size=_infer_grid(state["visual.attnpool.positional_embedding"]) * 32,
        layers=(one, two, three, four),
        width=width,
        num_heads=width * 32 // 64,
    )


def _infer_grid(positions: Tensor) -> int:
    """The side of the square of positions after that of the class token."""
    side = round((len(positions) - 1) ** 0.5)
    if side**2 + 1 != len(positions):
        raise ValueError(f"expected a square of positions and one more, got {len(positions)}")
    return side


def _count_layers(state: Mapping[str, Tensor], pattern: str) -> int:
    """Number of indices in the names that match the pattern."""
    return 1 + max((int(m[1]) for key in state if (m := re.match(pattern, key))), default=-1)

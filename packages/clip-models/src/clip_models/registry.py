"""Named models as data, and the one way to make a model."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from pathlib import Path

from clip_models.clip import CLIP
from clip_models.config import (
    CLIPConfig,
    CompactResNetConfig,
    ModifiedResNetConfig,
    TextConfig,
    ViTConfig,
)
from clip_models.strict_config import ConfigError, nearest


def _openai_text(width: int) -> TextConfig:
    return TextConfig(width=width, num_heads=width // 64)


def _vit(embed_dim: int, vision: ViTConfig, text_width: int) -> CLIPConfig:
    return CLIPConfig(embed_dim=embed_dim, vision=vision, text=_openai_text(text_width))


def _resnet(embed_dim: int, vision: ModifiedResNetConfig, text_width: int) -> CLIPConfig:
    return CLIPConfig(embed_dim=embed_dim, vision=vision, text=_openai_text(text_width))


def _quick(config: CLIPConfig) -> CLIPConfig:
    """The same model with the activation OpenAI trained with."""
    vision = config.vision
    if isinstance(vision, ViTConfig):
        vision = replace(vision, activation="quick_gelu")
    return replace(config, vision=vision, text=replace(config.text, activation="quick_gelu"))


_LARGE = ViTConfig(patch_size=14, width=1024, num_layers=24, num_heads=16)

_CONFIGS: dict[str, CLIPConfig] = {
    # Radford et al. 2021, tables 19 and 20, as open_clip names them.
    "RN50": _resnet(1024, ModifiedResNetConfig(), 512),
    "RN101": _resnet(512, ModifiedResNetConfig(layers=(3, 4, 23, 3)), 512),
    "RN50x4": _resnet(
        640,
        ModifiedResNetConfig(image_size=288, layers=(4, 6, 10, 6), width=80, num_heads=40),
        640,
    ),
    "RN50x16": _resnet(
        768,
        ModifiedResNetConfig(image_size=384, layers=(6, 8, 18, 8), width=96, num_heads=48),
        768,
    ),
    "RN50x64": _resnet(
        1024,
        ModifiedResNetConfig(image_size=448, layers=(3, 15, 36, 10), width=128, num_heads=64),
        1024,
    ),
    "ViT-B-32": _vit(512, ViTConfig(), 512),
    "ViT-B-16": _vit(512, ViTConfig(patch_size=16), 512),
    "ViT-L-14": _vit(768, _LARGE, 768),
    "ViT-L-14-336": _vit(768, replace(_LARGE, image_size=336), 768),
    # The reference model of CLIP for CIFAR-10: ModifiedResNet at 32 px, six text layers.
    "CIFAR-RN": CLIPConfig(
        embed_dim=512,
        vision=ModifiedResNetConfig(image_size=32, layers=(2, 2, 2, 2), width=32, num_heads=16),
        text=TextConfig(num_layers=6),
    ),
    # Small towers for small images on two CPU cores.
    "Compact-32": CLIPConfig(
        embed_dim=128,
        vision=CompactResNetConfig(image_size=32, widths=(48, 96, 192)),
        text=TextConfig(width=128, num_layers=2, num_heads=4, context_length=32),
    ),
    "Compact-48": CLIPConfig(
        embed_dim=128,
        vision=CompactResNetConfig(image_size=48, widths=(16, 32, 64, 128), pooling="flatten"),
        text=TextConfig(width=128, num_layers=2, num_heads=4, context_length=48),
    ),
}
_CONFIGS.update(
    {
        f"{name}-quickgelu": _quick(config)
        for name, config in list(_CONFIGS.items())
        if name.startswith(("RN", "ViT"))
    }
)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_CONFIGS, pattern))


def get_config(name: str) -> CLIPConfig:
    """The registered config of that name.

    Raises:
        ConfigError: There is no such model; the message names the nearest.
    """
    if name not in _CONFIGS:
        raise ConfigError(f"unknown model {name!r}{nearest(name, _CONFIGS)}")
    return _CONFIGS[name]


def create_model(model: str | Path | CLIPConfig) -> CLIP:
    """A CLIP model.

    Args:
        model: A registered name (new random weights), a config (likewise), or the directory of a
            saved model (its weights).

    Raises:
        ConfigError: The name is not registered and is no directory.
    """
    from clip_models.checkpoint import load_model

    if isinstance(model, CLIPConfig):
        return CLIP(model)
    if Path(model).is_dir():
        return load_model(model)[0]
    return CLIP(get_config(str(model)))

"""Named models as rows of numbers.

Names and numbers are those of OpenAI CLIP (Radford et al. 2021, tables 19 and 20), open_clip (MIT),
CLIPA (Apache-2.0), SigLIP in timm (Apache-2.0) and CoreNet (Apple's sample code license).
"""

from __future__ import annotations

import copy
import fnmatch
from dataclasses import replace
from typing import NamedTuple

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.strict import nearest
from clip_models.config.towers import (
    Activation,
    CompactResNetConfig,
    ModifiedResNetConfig,
    TextConfig,
    TokenizerConfig,
    ViTConfig,
    WhitenedCNNConfig,
)
from clip_models.errors import ConfigError


class _Image(NamedTuple):
    """A vision transformer; H heads, patch size and image size belong to the name."""

    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: float = 4.0


_S, _M, _B, _PLUS = _Image(384, 12, 6), _Image(512, 12, 8), _Image(768, 12, 12), _Image(896, 12, 14)
_L, _H, _G = _Image(1024, 24, 16), _Image(1280, 32, 16), _Image(1408, 40, 16, 4.3637)
_BIGG, _E = _Image(1664, 48, 16, 4.9231), _Image(1792, 56, 16, 8.5715)
_SO400M, _GOPT = _Image(1152, 27, 16, 3.7362), _Image(1536, 40, 16)

# name: tower, patch size, image size, embedding width, text width, text layers
_VITS = {
    "ViT-S-32": (_S, 32, 224, 384, 384, 12),
    "ViT-S-16": (_S, 16, 224, 384, 384, 12),
    "ViT-S-32-alt": (_S, 32, 224, 256, 256, 10),
    "ViT-S-16-alt": (_S, 16, 224, 256, 256, 10),
    "ViT-M-32": (_M, 32, 224, 512, 512, 12),
    "ViT-M-16": (_M, 16, 224, 512, 512, 12),
    "ViT-M-32-alt": (_M, 32, 224, 384, 384, 12),
    "ViT-M-16-alt": (_M, 16, 224, 384, 384, 12),
    "ViT-B-32": (_B, 32, 224, 512, 512, 12),
    "ViT-B-32-256": (_B, 32, 256, 512, 512, 12),
    "ViT-B-16": (_B, 16, 224, 512, 512, 12),
    "ViT-B-32-plus-256": (_PLUS, 32, 256, 640, 640, 12),
    "ViT-B-16-plus": (_PLUS, 16, 224, 640, 640, 12),
    "ViT-B-16-plus-240": (_PLUS, 16, 240, 640, 640, 12),
    "ViT-L-14": (_L, 14, 224, 768, 768, 12),
    "ViT-L-14-280": (_L, 14, 280, 768, 768, 12),
    "ViT-L-14-336": (_L, 14, 336, 768, 768, 12),
    "ViT-L-16": (_L, 16, 224, 768, 768, 12),
    "ViT-L-16-320": (_L, 16, 320, 768, 768, 12),
    "ViT-H-14": (_H, 14, 224, 1024, 1024, 24),
    "ViT-H-14-378": (_H, 14, 378, 1024, 1024, 24),
    "ViT-H-16": (_H, 16, 224, 1024, 1024, 24),
    "ViT-g-14": (_G, 14, 224, 1024, 1024, 24),
    "ViT-bigG-14": (_BIGG, 14, 224, 1280, 1280, 32),
    "ViT-e-14": (_E, 14, 224, 1280, 1280, 36),
}

# name: blocks of each stage, width, image size, embedding width, text width
_RESNETS = {
    "RN50": ((3, 4, 6, 3), 64, 224, 1024, 512),
    "RN101": ((3, 4, 23, 3), 64, 224, 512, 512),
    "RN50x4": ((4, 6, 10, 6), 80, 288, 640, 640),
    "RN50x16": ((6, 8, 18, 8), 96, 384, 768, 768),
    "RN50x64": ((3, 15, 36, 10), 128, 448, 1024, 1024),
}

# Also registered as NAME-quickgelu, with the activation of OpenAI's weights.
_QUICKGELU = (
    *_RESNETS,
    *("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"),
    *("ViT-H-14", "ViT-H-14-378", "ViT-bigG-14"),
    *("ViT-L-14-worldwide", "ViT-H-14-worldwide"),
)

# MetaCLIP 2: name: the model it widens to all languages, image size, vocabulary, end token
_WORLDWIDE = {
    "ViT-L-14-worldwide": ("ViT-L-14", 224, 250100, 1),
    "ViT-H-14-worldwide": ("ViT-H-14", 224, 901629, 2),
    "ViT-H-14-worldwide-378": ("ViT-H-14", 378, 901629, 2),
    "ViT-bigG-14-worldwide": ("ViT-bigG-14", 224, 901629, 2),
    "ViT-bigG-14-worldwide-378": ("ViT-bigG-14", 378, 901629, 2),
}

# CLIPA's second version as open_clip loads it: name: the model it shares its sizes with, image size
_CLIPA_V2 = {
    "ViT-L-14-CLIPA": ("ViT-L-14", 224),
    "ViT-L-14-CLIPA-336": ("ViT-L-14", 336),
    "ViT-H-14-CLIPA": ("ViT-H-14", 224),
    "ViT-H-14-CLIPA-336": ("ViT-H-14", 336),
    "ViT-bigG-14-CLIPA": ("ViT-bigG-14", 224),
    "ViT-bigG-14-CLIPA-336": ("ViT-bigG-14", 336),
}

# CLIPA's own names: the model, context length, average of all tokens, captions cut by syntax
_CLIPA_V1 = {
    "ViT-B-16-CL16": ("ViT-B-16", 16, False, False),
    "ViT-L-16-CL8-Syntax-GAP": ("ViT-L-16", 8, True, True),
    "ViT-L-16-CL16-Syntax-GAP": ("ViT-L-16", 16, True, True),
    "ViT-L-16-CL16-GAP": ("ViT-L-16", 16, True, False),  # of a script; its own file is missing
    "ViT-L-16-CL32-GAP": ("ViT-L-16", 32, True, False),
    "ViT-H-14-CL8-SyntaxMask-GAP": ("ViT-H-14", 8, True, True),
    "ViT-H-14-CL32-GAP": ("ViT-H-14", 32, True, False),
}
# CLIPA's second version in its torch code, whose norms have torch's epsilon; its JAX code has 1e-6.
_CLIPA_BIG_VISION = {
    "ViT-L-14-CL32-GAP-BigVision": "ViT-L-14",
    "ViT-H-14-CL32-GAP-BigVision": "ViT-H-14",
}

_SENTENCE_PIECES = {"SigLIP": 32000, "i18n": 250000, "SigLIP2": 256000}
# name: tower, patch size, image size, vocabulary, name of the tokenizer, tanh GELU in the image
_SIGLIPS = {
    "ViT-B-16-SigLIP": (_B, 16, 224, "SigLIP", "ViT-B-16-SigLIP", False),
    "ViT-B-16-SigLIP-256": (_B, 16, 256, "SigLIP", "ViT-B-16-SigLIP", False),
    "ViT-B-16-SigLIP-i18n-256": (_B, 16, 256, "i18n", "ViT-B-16-SigLIP-i18n-256", False),
    "ViT-B-16-SigLIP-384": (_B, 16, 384, "SigLIP", "ViT-B-16-SigLIP", False),
    "ViT-B-16-SigLIP-512": (_B, 16, 512, "SigLIP", "ViT-B-16-SigLIP", False),
    "ViT-L-16-SigLIP-256": (_L, 16, 256, "SigLIP", "ViT-B-16-SigLIP", False),
    "ViT-L-16-SigLIP-384": (_L, 16, 384, "SigLIP", "ViT-B-16-SigLIP", False),
    "ViT-SO400M-14-SigLIP": (_SO400M, 14, 224, "SigLIP", "ViT-B-16-SigLIP", False),
    "ViT-SO400M-14-SigLIP-378": (_SO400M, 14, 378, "SigLIP", "ViT-B-16-SigLIP", False),
    "ViT-SO400M-14-SigLIP-384": (_SO400M, 14, 384, "SigLIP", "ViT-B-16-SigLIP", False),
    "ViT-SO400M-16-SigLIP-i18n-256": (_SO400M, 16, 256, "i18n", "ViT-B-16-SigLIP-i18n-256", True),
    "ViT-B-32-SigLIP2-256": (_B, 32, 256, "SigLIP2", "ViT-B-32-SigLIP2-256", True),
    "ViT-B-16-SigLIP2": (_B, 16, 224, "SigLIP2", "ViT-B-16-SigLIP2", False),
    "ViT-B-16-SigLIP2-256": (_B, 16, 256, "SigLIP2", "ViT-B-16-SigLIP2-256", False),
    "ViT-B-16-SigLIP2-384": (_B, 16, 384, "SigLIP2", "ViT-B-16-SigLIP2-384", False),
    "ViT-B-16-SigLIP2-512": (_B, 16, 512, "SigLIP2", "ViT-B-16-SigLIP2-512", False),
    "ViT-L-16-SigLIP2-256": (_L, 16, 256, "SigLIP2", "ViT-L-16-SigLIP2-256", False),
    "ViT-L-16-SigLIP2-384": (_L, 16, 384, "SigLIP2", "ViT-L-16-SigLIP2-384", False),
    "ViT-L-16-SigLIP2-512": (_L, 16, 512, "SigLIP2", "ViT-L-16-SigLIP2-512", True),
    "ViT-SO400M-14-SigLIP2": (_SO400M, 14, 224, "SigLIP2", "ViT-SO400M-14-SigLIP2", False),
    "ViT-SO400M-14-SigLIP2-378": (_SO400M, 14, 378, "SigLIP2", "ViT-SO400M-14-SigLIP2-378", False),
    "ViT-SO400M-16-SigLIP2-256": (_SO400M, 16, 256, "SigLIP2", "ViT-SO400M-16-SigLIP2-256", True),
    "ViT-SO400M-16-SigLIP2-384": (_SO400M, 16, 384, "SigLIP2", "ViT-SO400M-16-SigLIP2-384", True),
    "ViT-SO400M-16-SigLIP2-512": (_SO400M, 16, 512, "SigLIP2", "ViT-SO400M-16-SigLIP2-512", True),
    "ViT-gopt-16-SigLIP2-256": (_GOPT, 16, 256, "SigLIP2", "ViT-gopt-16-SigLIP2-256", True),
    "ViT-gopt-16-SigLIP2-384": (_GOPT, 16, 384, "SigLIP2", "ViT-gopt-16-SigLIP2-384", True),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_CONFIGS, pattern))


def get_config(name: str) -> CLIPConfig:
    """A copy of the registered config of that name.

    Raises:
        ConfigError: There is no such model; the message names the nearest.
    """
    if name not in _CONFIGS:
        raise ConfigError(f"unknown model {name!r}{nearest(name, _CONFIGS, '`clip-models list`')}")
    return copy.deepcopy(_CONFIGS[name])


def _make_named_configs() -> dict[str, CLIPConfig]:
    """Configs of all named models."""
    configs = {name: _make_vit(*row) for name, row in _VITS.items()}
    configs["ViT-M-16-alt"] = _add_layer_scale(configs["ViT-M-16-alt"], 1e-4)
    configs |= {name: _make_resnet(*row) for name, row in _RESNETS.items()}
    configs |= {
        name: _make_worldwide(configs[row[0]], *row[1:]) for name, row in _WORLDWIDE.items()
    }
    configs |= {
        f"{name}-quickgelu": _set_activation(configs[name], "quick_gelu") for name in _QUICKGELU
    }
    configs |= {
        name: _make_clipa_v2(configs[base], size) for name, (base, size) in _CLIPA_V2.items()
    }
    configs |= {name: _make_clipa_v1(configs[row[0]], *row[1:]) for name, row in _CLIPA_V1.items()}
    configs |= {
        name: _set_activation(_make_clipa_v2(configs[base], 224), "gelu_tanh")
        for name, base in _CLIPA_BIG_VISION.items()
    }
    configs |= {name: _make_siglip(name, *row) for name, row in _SIGLIPS.items()}
    return configs | _OTHERS


def _make_text(width: int, num_layers: int = 12) -> TextConfig:
    return TextConfig(width=width, num_layers=num_layers, num_heads=width // 64)


def _make_vit(
    image: _Image, patch: int, size: int, embed_dim: int, text_width: int, text_layers: int
) -> CLIPConfig:
    return CLIPConfig(
        embed_dim=embed_dim,
        vision=ViTConfig(image_size=size, patch_size=patch, **image._asdict()),
        text=_make_text(text_width, text_layers),
    )


def _make_resnet(
    layers: tuple[int, int, int, int], width: int, size: int, embed_dim: int, text_width: int
) -> CLIPConfig:
    return CLIPConfig(
        embed_dim=embed_dim,
        vision=ModifiedResNetConfig(
            image_size=size, layers=layers, width=width, num_heads=width // 2
        ),
        text=_make_text(text_width),
    )


def _set_activation(config: CLIPConfig, activation: Activation) -> CLIPConfig:
    vision = config.vision
    if isinstance(vision, ViTConfig):
        vision = replace(vision, activation=activation)
    return replace(config, vision=vision, text=replace(config.text, activation=activation))


def _add_layer_scale(config: CLIPConfig, init: float) -> CLIPConfig:
    assert isinstance(config.vision, ViTConfig)
    return replace(config, vision=replace(config.vision, layer_scale_init=init))


def _make_worldwide(
    config: CLIPConfig, size: int, vocab_size: int, eot_token_id: int
) -> CLIPConfig:
    if vocab_size == 250100:
        tokenizer = TokenizerConfig(name="google/mt5-base", options={"clean": "canonicalize"})
    else:
        tokenizer = TokenizerConfig(name="facebook/xlm-v-base")
    text = replace(
        config.text, vocab_size=vocab_size, eot_token_id=eot_token_id, tokenizer=tokenizer
    )
    return replace(config, vision=replace(config.vision, image_size=size), text=text)


def _make_clipa_v2(config: CLIPConfig, size: int) -> CLIPConfig:
    assert isinstance(config.vision, ViTConfig)
    return replace(
        config,
        vision=replace(
            config.vision,
            image_size=size,
            pre_norm=False,
            readout="patch_average",
            norm_after_readout=True,
        ),
        text=replace(
            config.text,
            context_length=32,
            vocab_size=32000,
            causal=False,
            readout="last",
            tokenizer=TokenizerConfig(name="bert-base-uncased", options={"strip_sep_token": True}),
        ),
    )


def _make_clipa_v1(
    config: CLIPConfig, context_length: int, average: bool, syntax: bool
) -> CLIPConfig:
    assert isinstance(config.vision, ViTConfig)
    vision, tokenizer = config.vision, None
    if average:
        vision = replace(vision, readout="average", norm_after_readout=True)
    if syntax:
        tokenizer = TokenizerConfig(options={"reduction_mask": "syntax"})
    text = replace(config.text, context_length=context_length, tokenizer=tokenizer)
    return replace(config, vision=vision, text=text)


def _make_siglip(
    name: str, image: _Image, patch: int, size: int, vocabulary: str, tokenizer: str, tanh: bool
) -> CLIPConfig:
    text = _SO400M if image is _GOPT else image
    no_projection = name == "ViT-SO400M-16-SigLIP-i18n-256"
    return CLIPConfig(
        embed_dim=image.width,
        vision=ViTConfig(
            image_size=size,
            patch_size=patch,
            patch_bias=True,
            class_token=False,
            pre_norm=False,
            readout="map",
            projection="none",
            layer_norm_eps=1e-6,
            activation="gelu_tanh" if tanh else "gelu",
            **image._asdict(),
        ),
        text=TextConfig(
            context_length=16 if name == "ViT-SO400M-14-SigLIP" else 64,
            vocab_size=_SENTENCE_PIECES[vocabulary],
            causal=False,
            readout="last",
            projection="none" if no_projection else "linear_bias",
            layer_norm_eps=1e-6,
            activation="gelu_tanh" if vocabulary == "SigLIP2" else "gelu",
            tokenizer=TokenizerConfig(name=f"timm/{tokenizer}", options={"clean": "canonicalize"}),
            **text._asdict(),
        ),
        init_logit_bias=-10.0,
    )


_OTHERS = {
    # CoreNet's CLIP: a convolutional stem, a class token without a position, its interpolation.
    "CoreNet-ViT-B-16": CLIPConfig(
        embed_dim=512,
        vision=ViTConfig(
            patch_size=16,
            stem="conv",
            class_position=False,
            position_interpolation="flattened",
            pre_norm=False,
            layer_norm_eps=1e-6,
        ),
        text=TextConfig(),
    ),
    # The reference model of CLIP for CIFAR-10: ModifiedResNet at 32 px, six text layers, QuickGELU.
    "CIFAR-RN": CLIPConfig(
        embed_dim=512,
        vision=ModifiedResNetConfig(image_size=32, layers=(2, 2, 2, 2), width=32, num_heads=16),
        text=TextConfig(num_layers=6, activation="quick_gelu"),
    ),
    # Small towers for small images on two CPU cores.
    "Compact-32": CLIPConfig(
        embed_dim=128,
        vision=CompactResNetConfig(image_size=32, widths=(48, 96, 192)),
        text=TextConfig(width=128, num_layers=2, num_heads=4, context_length=32),
    ),
    "Whitened-32": CLIPConfig(
        embed_dim=128,
        vision=WhitenedCNNConfig(image_size=32, widths=(64, 256, 256)),
        text=TextConfig(width=128, num_layers=2, num_heads=4, context_length=32),
    ),
    "Compact-48": CLIPConfig(
        embed_dim=128,
        vision=CompactResNetConfig(image_size=48, widths=(16, 32, 64, 128), pooling="flatten"),
        text=TextConfig(width=128, num_layers=2, num_heads=4, context_length=48),
    ),
}

_CONFIGS = _make_named_configs()

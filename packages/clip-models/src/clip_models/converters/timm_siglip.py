"""SigLIP's image towers, which open_clip's configs name as models of timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clip_models.config.towers import ViTConfig
from clip_models.errors import ConfigError

# name in timm: width, layers, heads, mlp ratio
_SIZES = {
    "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0),
    "so400m": (1152, 27, 16, 3.7362),
    "giantopt": (1536, 40, 16, 4.0),
}
# name and patch size in timm: image sizes
_IMAGE_SIZES = {
    "base_patch16": (224, 256, 384, 512),
    "base_patch32": (256,),
    "large_patch16": (256, 384, 512),
    "so400m_patch14": (224, 378, 384),
    "so400m_patch16": (256, 384, 512),
    "giantopt_patch16": (256, 384),
}
_NAME = re.compile(r"vit_(\w+)_patch(\d+)_siglip_(\d+)")
_WITH_TANH = re.compile(r"vit_(base_patch32|large_patch16_siglip_512|so400m_patch16|giantopt)")


def from_timm_siglip(values: Mapping[str, Any]) -> ViTConfig:
    """The image tower of a `vision_cfg` that names a model of timm.

    Raises:
        ConfigError: It is not one of SigLIP's, or is not read by attention pooling.
    """
    name = values["timm_model_name"]
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in _SIZES or values["timm_pool"] != "map":
        raise ConfigError(
            f"the timm tower {name!r} with pool {values['timm_pool']!r} is not computed here; "
            "of timm's towers only SigLIP's are, with pool 'map'"
        )
    if values["timm_proj"] not in ("none", None, ""):
        raise ConfigError(f"timm_proj = {values['timm_proj']!r} is not computed here; 'none' is")
    width, num_layers, num_heads, mlp_ratio = _SIZES[match[1]]
    return ViTConfig(
        image_size=values["image_size"],
        patch_size=int(match[2]),
        patch_bias=True,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        layer_norm_eps=1e-6,
        class_token=False,
        pre_norm=False,
        readout="map",
        projection="none",
        activation="gelu_tanh" if _WITH_TANH.match(name) else "gelu",
    )


def to_timm_siglip(vision: ViTConfig) -> dict[str, Any]:
    """The `vision_cfg` that names the tower in timm.

    Raises:
        ConfigError: timm has no tower of these sizes.
    """
    heads, _, hidden = vision.layers()[0]
    sizes = (vision.width, vision.num_layers, heads, hidden)
    known = {
        name: (width, layers, heads, int(width * ratio))
        for name, (width, layers, heads, ratio) in _SIZES.items()
    }
    named = [name for name in known if known[name] == sizes]
    if not named:
        raise ConfigError(
            f"timm has no SigLIP tower with width, layers, heads and mlp width {sizes}; "
            f"it has {list(known.values())}"
        )
    tower = f"{named[0]}_patch{vision.patch_size}"
    sizes_of_images = _IMAGE_SIZES.get(tower, ())
    if vision.image_size not in sizes_of_images:
        raise ConfigError(
            f"timm has no SigLIP tower vit_{tower} for images of {vision.image_size}; it has "
            f"{sizes_of_images or list(_IMAGE_SIZES)}"
        )
    return {
        "image_size": vision.image_size,
        "timm_model_name": f"vit_{tower}_siglip_{vision.image_size}",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }

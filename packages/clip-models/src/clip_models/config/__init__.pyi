from .clip_config import (
    CLIPConfig,
    CompactResNetConfig,
    ModifiedResNetConfig,
    PatchReductionConfig,
    PoolingConfig,
    PreprocessConfig,
    TextConfig,
    TokenizerConfig,
    ViTConfig,
)
from .registry import get_config, list_models
from .strict import from_dict, nearest, to_dict

__all__ = [
    "CLIPConfig",
    "CompactResNetConfig",
    "ModifiedResNetConfig",
    "PatchReductionConfig",
    "PoolingConfig",
    "PreprocessConfig",
    "TextConfig",
    "TokenizerConfig",
    "ViTConfig",
    "from_dict",
    "get_config",
    "list_models",
    "nearest",
    "to_dict",
]

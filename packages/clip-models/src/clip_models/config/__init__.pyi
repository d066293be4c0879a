from .checks import require
from .clip_config import CLIPConfig
from .preprocess_config import PreprocessConfig, get_preprocess_config
from .pretrained_tags import get_pretrained_repository
from .strict import from_dict, nearest, to_dict
from .towers import (
    CompactResNetConfig,
    ModifiedResNetConfig,
    PatchReductionConfig,
    PoolingConfig,
    TextConfig,
    TokenizerConfig,
    ViTConfig,
    WhitenedCNNConfig,
)

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
    "WhitenedCNNConfig",
    "from_dict",
    "get_preprocess_config",
    "get_pretrained_repository",
    "nearest",
    "require",
    "to_dict",
]

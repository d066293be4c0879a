from .checks import require
from .clip_config import CLIPConfig
from .named_models import get_config, list_models
from .preprocess_config import PreprocessConfig
from .strict import from_dict, nearest, to_dict
from .towers import (
    CompactResNetConfig,
    ModifiedResNetConfig,
    PatchReductionConfig,
    PoolingConfig,
    TextConfig,
    TokenizerConfig,
    ViTConfig,
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
    "from_dict",
    "get_config",
    "list_models",
    "nearest",
    "require",
    "to_dict",
]

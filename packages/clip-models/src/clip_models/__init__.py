"""CLIP models as readable modules with strict configs and safetensors."""

from clip_models.checkpoint import (
    WEIGHTS_NAME,
    load_config,
    load_model,
    load_state,
    save_config,
    save_model,
    save_tensors,
)
from clip_models.clip import CLIP, CLIPOutput
from clip_models.clipa_dialect import from_clipa
from clip_models.config import (
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
from clip_models.open_clip_dialect import from_open_clip, to_open_clip
from clip_models.patch_reduction import PatchReducer
from clip_models.preprocess import EvaluationTransform, Preprocess, TrainTransform
from clip_models.registry import create_model, get_config, list_models
from clip_models.strict_config import ConfigError, from_dict, nearest, to_dict
from clip_models.token_pooling import PooledTokens, TokenPooling
from clip_models.tower_output import TowerOutput
from clip_models.weight_files import CheckpointError, load_tensors, read_weights

__all__ = [
    "CLIP",
    "WEIGHTS_NAME",
    "CLIPConfig",
    "CLIPOutput",
    "CheckpointError",
    "CompactResNetConfig",
    "ConfigError",
    "EvaluationTransform",
    "ModifiedResNetConfig",
    "PatchReducer",
    "PatchReductionConfig",
    "PooledTokens",
    "PoolingConfig",
    "Preprocess",
    "PreprocessConfig",
    "TextConfig",
    "TokenPooling",
    "TokenizerConfig",
    "TowerOutput",
    "TrainTransform",
    "ViTConfig",
    "create_model",
    "from_clipa",
    "from_dict",
    "from_open_clip",
    "get_config",
    "list_models",
    "load_config",
    "load_model",
    "load_state",
    "load_tensors",
    "nearest",
    "read_weights",
    "save_config",
    "save_model",
    "save_tensors",
    "to_dict",
    "to_open_clip",
]

"""CLIP models as readable modules with strict configs and safetensors."""

from clip_models.checkpoint import (
    WEIGHTS_NAME,
    load_config,
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
from clip_models.converters import DIALECTS, Dialect, detect_dialect, from_native, to_native
from clip_models.converters.hugging_face_config import (
    from_hugging_face_config,
    to_hugging_face_config,
)
from clip_models.export_directory import save_pretrained
from clip_models.factory import ModelAndTransforms, create_model, create_model_and_transforms
from clip_models.hub import from_pretrained, push_to_hub
from clip_models.open_clip_dialect import from_open_clip, to_open_clip
from clip_models.patch_reduction import PatchReducer
from clip_models.preprocess import EvaluationTransform, Preprocess, TrainTransform
from clip_models.pretrained import build_model, load_model
from clip_models.randomness import hashed_uniform
from clip_models.registry import get_config, list_models
from clip_models.strict_config import ConfigError, from_dict, nearest, to_dict
from clip_models.subnet import config_of
from clip_models.token_pooling import PooledTokens, TokenPooling
from clip_models.tower_output import TowerOutput
from clip_models.weight_files import CheckpointError, load_tensors, read_weights

__all__ = [
    "CLIP",
    "DIALECTS",
    "WEIGHTS_NAME",
    "CLIPConfig",
    "CLIPOutput",
    "CheckpointError",
    "CompactResNetConfig",
    "ConfigError",
    "Dialect",
    "EvaluationTransform",
    "ModelAndTransforms",
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
    "build_model",
    "config_of",
    "create_model",
    "create_model_and_transforms",
    "detect_dialect",
    "from_clipa",
    "from_dict",
    "from_hugging_face_config",
    "from_native",
    "from_open_clip",
    "from_pretrained",
    "get_config",
    "hashed_uniform",
    "list_models",
    "load_config",
    "load_model",
    "load_state",
    "load_tensors",
    "nearest",
    "push_to_hub",
    "read_weights",
    "save_config",
    "save_model",
    "save_pretrained",
    "save_tensors",
    "to_dict",
    "to_hugging_face_config",
    "to_native",
    "to_open_clip",
]

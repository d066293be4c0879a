from .config.clip_config import CLIPConfig
from .config.named_models import get_config, list_models
from .config.pretrained_tags import list_pretrained
from .errors import CheckpointError, ConfigError
from .factory import ModelAndTransforms, create_model, create_model_and_transforms
from .files.export import save_pretrained
from .files.hub import from_pretrained, push_to_hub
from .files.model_directory import save_model
from .files.pretrained import load_model
from .model.clip import CLIP
from .model.native_conversion import convert_to_native
from .native_images import NativeImages
from .preprocess import Preprocess

__all__ = [
    "CLIP",
    "CLIPConfig",
    "CheckpointError",
    "ConfigError",
    "ModelAndTransforms",
    "NativeImages",
    "Preprocess",
    "convert_to_native",
    "create_model",
    "create_model_and_transforms",
    "from_pretrained",
    "get_config",
    "list_models",
    "list_pretrained",
    "load_model",
    "push_to_hub",
    "save_model",
    "save_pretrained",
]

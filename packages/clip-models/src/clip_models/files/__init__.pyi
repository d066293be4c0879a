from .atomic_write import save_tensors
from .model_directory import WEIGHTS_NAME, load_config, save_config
from .pretrained import build_model, load_state
from .weight_files import load_tensors, read_weights

__all__ = [
    "WEIGHTS_NAME",
    "build_model",
    "load_config",
    "load_state",
    "load_tensors",
    "read_weights",
    "save_config",
    "save_tensors",
]

from .checkpoint import WEIGHTS_NAME, load_config, load_state, save_config, save_tensors
from .pretrained import build_model
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

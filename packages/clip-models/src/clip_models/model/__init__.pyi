from .clip import count_parameters
from .features import (
    TowerFeatures,
    compute_image_features,
    compute_relevance,
    compute_text_features,
)
from .measured_config import infer_config
from .outputs import CLIPOutput, TowerOutput

__all__ = [
    "CLIPOutput",
    "TowerFeatures",
    "TowerOutput",
    "compute_image_features",
    "compute_relevance",
    "compute_text_features",
    "count_parameters",
    "infer_config",
]

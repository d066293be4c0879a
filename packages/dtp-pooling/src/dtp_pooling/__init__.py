"""Dynamic token pooling: exact, linear-time pooling over learned segments."""

from dtp_pooling.functional import Pooled, closed_segment_of, pool, unpool
from dtp_pooling.generation import generate
from dtp_pooling.hourglass_checkpoint import load_hourglass
from dtp_pooling.language_config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.language_model import DynamicPoolingLM
from dtp_pooling.noise import sample_generators

__all__ = [
    "BoundaryConfig",
    "DynamicPoolingLM",
    "LanguageModelConfig",
    "Pooled",
    "closed_segment_of",
    "generate",
    "load_hourglass",
    "pool",
    "sample_generators",
    "unpool",
]

from .language_model.config import BoundaryConfig, LanguageModelConfig
from .language_model.generation import generate
from .language_model.hourglass_checkpoint import load_hourglass
from .language_model.model import DynamicPoolingLM
from .pooling.functional import Pooled, closed_segment_of, pool, smooth, unpool
from .pooling.noise import sample_generators
from .towers.config import TokenPoolingConfig
from .towers.pooled_tokens import PooledTokens
from .towers.token_pooling import DynamicTokenPooling, token_pooling

__all__ = [
    "BoundaryConfig",
    "DynamicPoolingLM",
    "DynamicTokenPooling",
    "LanguageModelConfig",
    "Pooled",
    "PooledTokens",
    "TokenPoolingConfig",
    "closed_segment_of",
    "generate",
    "load_hourglass",
    "pool",
    "sample_generators",
    "smooth",
    "token_pooling",
    "unpool",
]

"""Dynamic token pooling: exact, linear-time pooling over learned segments."""

from dtp_pooling.functional import Pooled, closed_segment_of, pool, unpool
from dtp_pooling.generation import generate
from dtp_pooling.hourglass_checkpoint import load_hourglass
from dtp_pooling.language_config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.language_model import DynamicPoolingLM
from dtp_pooling.noise import sample_generators
from dtp_pooling.token_pooling import (
    DynamicTokenPooling,
    PooledTokens,
    token_pooling,
)
from dtp_pooling.token_pooling_config import TokenPoolingConfig

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
    "token_pooling",
    "unpool",
]

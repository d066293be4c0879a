from .patch_reduction import PatchReducer
from .splitmix64 import hashed_uniform
from .token_pooling import PooledTokens, TokenPooling

__all__ = ["PatchReducer", "PooledTokens", "TokenPooling", "hashed_uniform"]

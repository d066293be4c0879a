from .boundaries import (
    boundary_confidence,
    entropy_spikes,
    fixed_boundaries,
    gumbel_boundaries,
    random_boundaries,
    routing_boundaries,
    threshold_boundaries,
    top_k_boundaries,
    whitespace_boundaries,
)
from .losses import binomial_prior, boundary_bce, interval_loss, ratio_loss
from .noise import logistic_noise, row_keys
from .predictors import CosinePredictor, MLPPredictor
from .splitmix64 import hashed_uniform

__all__ = [
    "CosinePredictor",
    "MLPPredictor",
    "binomial_prior",
    "boundary_bce",
    "boundary_confidence",
    "entropy_spikes",
    "fixed_boundaries",
    "gumbel_boundaries",
    "hashed_uniform",
    "interval_loss",
    "logistic_noise",
    "random_boundaries",
    "ratio_loss",
    "routing_boundaries",
    "row_keys",
    "threshold_boundaries",
    "top_k_boundaries",
    "whitespace_boundaries",
]

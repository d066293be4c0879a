"""Dynamic token pooling: exact, linear-time pooling over learned segments."""

from dtp_pooling.functional import Pooled, closed_segment_of, pool, unpool
from dtp_pooling.noise import sample_generators

__all__ = ["Pooled", "closed_segment_of", "pool", "sample_generators", "unpool"]

"""Dynamic token pooling: exact, linear-time pooling over learned segments."""

from dtp_pooling.functional import Pooled, closed_segment_of, pool, unpool

__all__ = ["Pooled", "closed_segment_of", "pool", "unpool"]

"""Segments: boundaries, pooling and unpooling, losses."""

"""Shards with random access: where they lie, their indices, the cache of those behind URLs."""

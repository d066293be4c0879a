"""Optimizers, EMA of weights, loss scale."""

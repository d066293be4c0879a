"""Optimizers, weight averages, loss scale."""

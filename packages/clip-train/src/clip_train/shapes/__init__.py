"""Procedural data set of colored shapes with captions."""

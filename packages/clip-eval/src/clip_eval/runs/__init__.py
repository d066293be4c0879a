"""Evaluation runs: several models on several data sets, with results on disk."""

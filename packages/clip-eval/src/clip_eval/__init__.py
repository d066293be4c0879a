"""Evaluation of CLIP-like models with counts, intervals and reports; readers of image-text data."""

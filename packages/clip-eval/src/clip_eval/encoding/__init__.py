"""Encoding of images and prompts to unit vectors, and their cache."""

"""Contrastive objectives whose gradients are those of the whole batch, on any number of ranks."""

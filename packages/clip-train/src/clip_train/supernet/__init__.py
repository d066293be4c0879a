"""Training a CLIP as a supernet."""

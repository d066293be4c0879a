"""CLIP models as readable modules that load and save everybody's checkpoints."""

"""The state of a run on disk, and the model it ends in."""

"""One run: its components, the trainer, the gradient of a step."""

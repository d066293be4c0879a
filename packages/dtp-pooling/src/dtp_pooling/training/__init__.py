"""Training the language model."""

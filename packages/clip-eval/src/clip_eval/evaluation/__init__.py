"""The evaluation of models on one source."""

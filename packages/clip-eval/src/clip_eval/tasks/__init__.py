"""Tasks: each takes batches of features and gives a result."""

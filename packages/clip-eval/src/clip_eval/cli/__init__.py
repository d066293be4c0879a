"""The `clip-eval` command."""

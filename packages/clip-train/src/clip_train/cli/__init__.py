"""The `clip-train` command."""

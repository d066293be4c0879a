"""A result, and its files."""

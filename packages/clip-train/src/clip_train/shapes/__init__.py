"""The drawn set of colored shapes with captions."""

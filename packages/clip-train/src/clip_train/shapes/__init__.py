"""The drawn set of coloured shapes with captions."""

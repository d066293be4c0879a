"""A reader for each data format."""

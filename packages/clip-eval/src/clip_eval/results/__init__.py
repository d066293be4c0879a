"""A result, its files, and other tools' forms of it."""

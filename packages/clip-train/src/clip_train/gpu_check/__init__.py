"""One command that shows on a GPU what only a GPU can show, and writes the figures down."""

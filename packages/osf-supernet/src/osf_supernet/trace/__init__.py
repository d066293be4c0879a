"""A module as a graph of operators with shapes: exported, or recorded from one call."""

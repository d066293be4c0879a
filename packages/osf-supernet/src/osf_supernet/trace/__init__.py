"""A module as a graph of operators with shapes."""

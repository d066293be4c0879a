"""Search of the best subnets under bounds."""

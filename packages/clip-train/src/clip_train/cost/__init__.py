"""Estimated cost of runs: FLOPs, memory, time and price."""

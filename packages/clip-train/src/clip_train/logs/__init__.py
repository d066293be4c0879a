"""Metrics, curves and files of a run directory."""

"""Metrics, intervals and paired tests, as functions of arrays."""

"""Coupled dimensions, derived from the operators."""

"""Subnets: spaces, surgery, importance, verification."""

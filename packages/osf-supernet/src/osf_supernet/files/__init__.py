"""Supernets and subnets on disk and on the Hub."""

"""The character language model that pools tokens."""

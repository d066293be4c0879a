"""Which samples make which step: pure functions of the seed."""

"""What a caller can catch: a config or a checkpoint that cannot be used."""


class ConfigError(ValueError):
    """A configuration that cannot be used: an unknown key, a wrong type, a value out of range."""


class CheckpointError(ValueError):
    """A directory or file that holds no usable model."""

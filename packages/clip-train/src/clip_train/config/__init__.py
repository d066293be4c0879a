"""Config sections, config keys as flags, and presets."""

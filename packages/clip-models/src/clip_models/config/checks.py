"""Checks of configuration values; each failure is a `ConfigError`."""

from __future__ import annotations

from clip_models.errors import ConfigError

TOO_LARGE = 2**31


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def require_sizes(config: object, *names: str) -> None:
    """Check that the named values are sizes."""
    for name in names:
        value = getattr(config, name)
        require(is_size(value), f"{name} must be a positive integer below 2^31, got {value!r}")


def require_heads(width: int, num_heads: int) -> None:
    """Check that the heads divide the width."""
    require(
        num_heads >= 1 and width % num_heads == 0,
        f"width must be a multiple of num_heads, got {width} and {num_heads}",
    )


def is_size(value: object) -> bool:
    """Whether it is a positive integer that torch can count with."""
    return type(value) is int and 0 < value < TOO_LARGE


def is_number(value: object) -> bool:
    """Whether it is an integer or a float, which True and False are not."""
    return type(value) in (int, float)

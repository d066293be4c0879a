"""What the values of a config must satisfy."""

from __future__ import annotations

from clip_models import ConfigError


def require(condition: bool, message: str) -> None:
    """Refuse a config that breaks a rule.

    Raises:
        ConfigError: It does; the message says what was expected and what was given.
    """
    if not condition:
        raise ConfigError(message)

"""Ranges of numbers in the config; None is left out."""

from __future__ import annotations

from clip_models.config import require


def require_positive(section: object, *names: str) -> None:
    """Check that the named values of a section are above 0."""
    for name in names:
        value = getattr(section, name)
        require(value is None or value > 0, f"{name} must be positive, got {value}")


def require_at_least(least: float, section: object, *names: str) -> None:
    """Check that the named values of a section are `least` or more."""
    for name in names:
        value = getattr(section, name)
        require(value is None or value >= least, f"{name} must be {least} or more, got {value}")


def require_share(section: object, *names: str) -> None:
    """Check that the named values of a section are in [0, 1]."""
    for name in names:
        value = getattr(section, name)
        require(0 <= value <= 1, f"{name} must be in [0, 1], got {value}")

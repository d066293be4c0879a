"""The numbers that torchrun puts into the environment."""

from __future__ import annotations

import os

from clip_train.errors import BackendError

MOST_PROCESSES = 2**20


def read_number(
    name: str, default: int | None = None, *, least: int = 0, most: int = MOST_PROCESSES
) -> int:
    """A whole number from a variable.

    Raises:
        BackendError: It is missing and has no default, is no number, or is out of range.
    """
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    digits = text or ""
    if not (digits.isascii() and digits.isdigit() and len(digits) < 8):
        raise BackendError(
            f"{name} must be a whole number, as torchrun sets it, got {digits!r:.40}"
        )
    if not least <= int(digits) <= most:
        raise BackendError(f"{name} must be from {least} to {most}, got {digits}")
    return int(digits)

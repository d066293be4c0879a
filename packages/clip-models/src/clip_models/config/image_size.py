"""Sizes of images in pixels: the side of a square, or height and width."""

from __future__ import annotations

from clip_models.config.checks import is_size, require

ImageSize = int | tuple[int, int]


def normalize_size(config: object, name: str) -> None:
    """Check a frozen config's size and store equal sides as one number."""
    size = getattr(config, name)
    sides = size if isinstance(size, tuple) else (size,)
    require(
        len(sides) in (1, 2) and all(map(is_size, sides)),
        f"{name} must be a positive integer below 2^31, or height and width, got {size!r}",
    )
    if len(set(sides)) == 1:
        object.__setattr__(config, name, sides[0])


def sides_of(size: ImageSize) -> tuple[int, int]:
    """Height and width."""
    return size if isinstance(size, tuple) else (size, size)


def side_of(size: ImageSize) -> int:
    """The side of a square.

    Raises:
        ConfigError: Height and width differ, where only squares are possible.
    """
    require(type(size) is int, f"images must be square here, got {size_in_words(size)}")
    assert isinstance(size, int)
    return size


def size_in_words(size: ImageSize) -> str:
    """`224` or `224 x 160`, height first."""
    return " x ".join(map(str, size)) if isinstance(size, tuple) else str(size)

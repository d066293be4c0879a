"""Rules that translate one flag or key of another system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Missing(str):
    """Why a setting that changes the result cannot be translated."""


Rule = Callable[[Any, Mapping[str, Any]], dict[str, Any] | str] | str
"""Function of a value and all values that returns our keys and command options (`--out`); or a text
that says why there are none: an ordinary one where the run is the same without, else `Missing`."""

NOTE = "#"  # beside the keys of a rule: the part of the value that they do not cover
AUTOMATIC = "nothing to set, this is always so"
PRECISIONS = {
    **dict.fromkeys(("fp32", "float32"), "fp32"),
    **dict.fromkeys(("amp", "fp16", "float16"), "fp16"),
    **dict.fromkeys(("amp_bf16", "amp_bfloat16", "bf16", "bfloat16"), "bf16"),
}


def to_key(key: str, kind: Callable[[Any], Any] = str) -> Rule:
    """The value under one of our keys; a flag alone has none."""

    def translate(value: Any, _: Mapping[str, Any]) -> dict[str, Any]:
        if value is True and kind is not bool:
            raise ValueError("expected a value")
        return {key: kind(value)}

    return translate


def whole_number(text: Any) -> int:
    """A whole number, which may be written as 4e8.

    Raises:
        ValueError: It is not one.
    """
    number = float(str(text))
    if not number.is_integer():
        raise ValueError(f"expected a whole number, got {text}")
    return int(number)


def expect(*values: Any, why: str) -> Rule:
    """A setting that is always one of these values here; another one is missing."""
    texts = {str(value).lower() for value in values}
    return lambda value, _: {} if str(value).lower() in texts else Missing(why)


def to_values(**values: Any) -> Rule:
    """Values of our keys that a flag without a value stands for; two underscores are a dot."""
    return lambda value, _: {key.replace("__", "."): ours for key, ours in values.items()}


def look_up(value: Any, names: Mapping[str, str]) -> str:
    """Our name of a value."""
    if value not in names:
        raise ValueError(f"expected one of {', '.join(names)}")
    return names[value]


def to_choice(key: str, names: Mapping[str, str]) -> Rule:
    """Our name of the value under one of our keys."""
    return lambda value, values: {key: look_up(value, names)}


def used_with(other: str) -> Rule:
    """A flag that the rule of another one uses; without that one it has no effect."""
    return lambda value, values: {} if other in values else f"has no effect without {other}"


def image_size(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """A side, or height and width, of square images."""
    sides = {int(word) for word in str(value).split()}
    if len(sides) != 1:
        raise ValueError("images must be square")
    return {"model.vision.image_size": sides.pop()}

"""Callables of the user's that the command line names as `module:factory`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast


def find_factory(name: str, what: str) -> Callable[..., Any]:
    """The callable that `module:factory` names.

    Raises:
        ValueError: there is none.
    """
    module, _, factory = name.partition(":")
    if not factory:
        raise ValueError(f"{what} must be module:factory, got {name!r}")
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise  # something that the module itself imports
        raise ValueError(f"no module {module!r} in the current directory or installed") from error
    found: Any = getattr(owner, factory, None)
    if not callable(found):
        raise ValueError(f"{module} has no callable {factory!r}")
    return cast(Callable[..., Any], found)


def describe_types(made: Any) -> str:
    """The types of what a factory returned, for a message."""
    if isinstance(made, tuple):
        return f"({', '.join(type(part).__name__ for part in made)})"
    return type(made).__name__

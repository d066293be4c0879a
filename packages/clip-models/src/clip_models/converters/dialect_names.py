"""Names of the dialects; a module of its own, so that a command's help imports no torch."""

from __future__ import annotations

from typing import Literal, get_args

Dialect = Literal["clip-models", "openai", "open-clip", "hugging-face", "clipa", "corenet"]
"""Whose names and files."""
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
FILE_DIALECTS: tuple[Dialect, ...] = ("openai", "clipa", "corenet")
"""Dialects that are single files; the others are directories with configs."""

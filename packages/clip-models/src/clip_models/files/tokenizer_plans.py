"""What an installed package would write of a model's tokenizer for a library.

This package knows no tokenizer. One that does answers in the entry-point group
`clip_models.tokenizer_files` (clip-tokenizer).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.strict import to_dict
from clip_models.converters.dialect_names import Dialect
from clip_models.errors import ConfigError

GROUP = "clip_models.tokenizer_files"
HERE = "this-directory"
"""The `hf_tokenizer_name` of a tokenizer whose files lie beside open_clip's config."""


class Planned(Protocol):
    """What is to be written: `names` by `write`, and fields of open_clip's config."""

    names: tuple[str, ...]
    write: Callable[[Path], None]
    text: dict[str, Any]


def plan_files(config: CLIPConfig, to: Dialect, place: str | Path | None) -> Planned | None:
    """What the installed package would write; None without one.

    Args:
        config: The model's.
        to: The dialect: "clip-models", "open-clip" or "hugging-face".
        place: A directory or repository with the tokenizer; None is the one the config names.

    Raises:
        ConfigError: The library cannot express the tokenizer, or it cannot be read.
    """
    found = entry_points(group=GROUP)
    if not found.names:
        return None
    text = to_dict(config.text)
    text["end_token_id"] = config.text.end_token_id if config.text.readout == "end_token" else None
    try:
        planned: Planned = next(iter(found)).load()(to, text, place)
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(f"the tokenizer cannot be written for {to}: {error}") from None
    return planned

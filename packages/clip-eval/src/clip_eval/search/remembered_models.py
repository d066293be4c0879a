"""Which model made embeddings, as the user named it, remembered in the user's cache.

A file of embeddings holds a hash of the weights and no name: what a file names is not loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from clip_eval.data.storage import cache_directory
from clip_eval.errors import EvaluationError
from clip_eval.results.files import read_json, write_json

HASH = re.compile(r"[0-9a-f]{64}")


def remember_model(weights: str, model: str) -> None:
    """Keep the description of the model with these weights; a directory by its absolute path."""
    if HASH.fullmatch(weights):
        path = Path(model)
        known = str(path.absolute()) if path.is_dir() else model
        write_json(_place(weights), {"model": known})


def recall_model(weights: str) -> str | None:
    """Return the description of the model with these weights, if it is remembered."""
    if not HASH.fullmatch(weights):
        return None
    try:
        found = read_json(_place(weights)).get("model")
    except EvaluationError:
        return None
    return found if isinstance(found, str) else None


def _place(weights: str) -> Path:
    return cache_directory() / "models" / f"{weights[:32]}.json"

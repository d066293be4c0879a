"""The body of `clip-models list`, which imports no torch."""

from __future__ import annotations

import argparse
import json
from typing import Any

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.image_size import size_in_words
from clip_models.config.named_models import get_config, list_models
from clip_models.errors import ConfigError


def list_named(options: argparse.Namespace) -> None:
    """Print names and sizes of the registered models."""
    names = list_models(options.pattern)
    if not names:
        raise ConfigError(f"no model is named like {options.pattern!r}; `clip-models list` has all")
    rows = [_row(name, get_config(name)) for name in names]
    if options.json:
        print(json.dumps(rows))
        return
    width = max(map(len, names))
    for row in rows:
        tokens = f"{row['context_length']:>3} tokens of {row['vocab_size']:>7,}"
        print(
            f"{row['name']:<{width}}  {size_in_words(row['image_size']):>4} px  {tokens}  "
            f"{row['embed_dim']:>5} dimensions"
        )


def _row(name: str, config: CLIPConfig) -> dict[str, Any]:
    return {
        "name": name,
        "image_size": config.vision.image_size,
        "context_length": config.text.context_length,
        "vocab_size": config.text.vocab_size,
        "embed_dim": config.embed_dim,
    }

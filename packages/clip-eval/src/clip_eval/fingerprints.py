"""Hashes that say whether two embeddings were made by the same thing."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

PROBES = (
    "a photo of a cat.",
    "It\u2019s caf\u00e9 No. 42 & <b>more</b>, under_score; don't!",
    "word " * 120,
)
"""Texts whose ids tell tokenizers apart: case, marks, entities, accents, length."""


def model_fingerprint(model: object) -> str:
    """A hash of a model's weights, structure and code."""
    found = hashlib.sha256()
    for line in _structure(model):
        found.update(line.encode())
        found.update(b"\0")
    if isinstance(model, nn.Module):
        for name, tensor in sorted(model.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(memoryview(_bytes_of(tensor)))
    return found.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of what a tokenizer makes of a few telling texts, and of its description."""
    tokens = tokenizer(list(PROBES))
    found = hashlib.sha256(repr(tokenizer).encode() if _describes_itself(tokenizer) else b"")
    found.update(repr(tokens.tolist()).encode())
    return found.hexdigest()


def preprocess_fingerprint(preprocess: Any) -> str:
    """A text that is the same for two preprocessings that do the same to every image."""
    config = getattr(preprocess, "config", None)
    if config is not None:
        return f"{type(preprocess).__qualname__} {config!r}"
    if _describes_itself(preprocess):
        return repr(preprocess)
    return f"{type(preprocess).__module__}.{type(preprocess).__qualname__} at {id(preprocess)}"


def fingerprint(*parts: str | Sequence[str] | dict[str, Any]) -> str:
    """A hash of plain values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _describes_itself(thing: object) -> bool:
    return type(thing).__repr__ is not object.__repr__


def _structure(model: object) -> list[str]:
    """What is not in the weights: the modules and their settings, and the class's source file."""
    lines = [f"{type(model).__module__}.{type(model).__qualname__}"]
    if isinstance(model, nn.Module):
        lines.append(repr(model))
    config = getattr(model, "config", None)
    if config is not None and _describes_itself(config):
        lines.append(repr(config))
    try:
        lines.append(Path(inspect.getfile(type(model))).read_text(encoding="utf-8"))
    except (TypeError, OSError, UnicodeDecodeError):
        lines.append("no source")
    return lines


def _bytes_of(tensor: torch.Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else b""

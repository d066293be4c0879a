"""Hashes that identify what made an embedding: model, tokenizer, preprocessing."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

PROBES = (
    "a photo of a cat.",
    "It\u2019s caf\u00e9 No. 42 & <b>more</b>, under_score; don't!",
    "word " * 120,
)
"""Texts whose ids distinguish tokenizers: case, marks, entities, accents, length."""
PICTURES = ((97, 61), (320, 240), (40, 130))
"""Sizes of the noise images that distinguish preprocessings: wide, large, high."""
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
NO_SETTINGS = frozenset({*vars(nn.Module()), "name_or_path"})
"""Attributes that change no embedding: those of every module, and transformers' source path."""


def model_fingerprint(model: object) -> str:
    """Hash the weights and buffers, settings, structure and code of a model.

    The settings of a module are its `config`, and each attribute that is a number, a text, None,
    a tuple of those, or a function, by its name. A module that counts its calls in such an
    attribute has another hash after each call.

    An object that is no module is hashed by all its attributes; if one of them is neither a number,
    a text, an array nor a module, the hash is unique to the object.
    """
    found = hashlib.sha256()
    for line in _structure(model):
        found.update(line.encode())
        found.update(b"\0")
    for name, part in _state(model):
        found.update(f"{name} ".encode())
        found.update(part if isinstance(part, bytes) else memoryview(part))
    return found.hexdigest()


def weights_fingerprint(model: object) -> str:
    """Hash the weights and buffers of a module alone; empty for another object.

    Unlike `model_fingerprint` it stays the same when the code of a module changes.
    """
    inner = getattr(model, "model", None)  # of an adapter
    module = inner if isinstance(inner, nn.Module) else model
    if not isinstance(module, nn.Module):
        return ""
    found = hashlib.sha256()
    for name, part in _state(module):
        found.update(f"{name} ".encode())
        found.update(part if isinstance(part, bytes) else memoryview(part))
    return found.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash the ids of a few probe texts, and the description of the tokenizer."""
    tokens = tokenizer(list(PROBES))
    found = hashlib.sha256(describe(tokenizer).encode())
    found.update(repr(tokens.tolist()).encode())
    return found.hexdigest()


def preprocess_fingerprint(preprocess: Any) -> str:
    """Return a text that identifies a preprocessing.

    A preprocessing without a config is identified by its description and by its output for noise
    images of three sizes, because two functions of one name may differ.
    """
    config = getattr(preprocess, "config", None)
    if config is not None and _describes_itself(config):
        return f"{type(preprocess).__qualname__} {config!r}"
    found = hashlib.sha256()
    for width, height in PICTURES:
        noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels = preprocess.normalize(preprocess(Image.fromarray(noise))[None])
        found.update(f"{pixels.dtype} {tuple(pixels.shape)}\n".encode())
        found.update(memoryview(_bytes_of(pixels)))
    return f"{describe(preprocess)} {found.hexdigest()}"


def fingerprint(*parts: str | Sequence[str] | dict[str, Any]) -> str:
    """Hash plain values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _describes_itself(thing: object) -> bool:
    return type(thing).__repr__ is not object.__repr__


def describe(thing: object) -> str:
    """Return the representation of an object without memory addresses."""
    if not _describes_itself(thing):
        return f"{type(thing).__module__}.{type(thing).__qualname__}"
    return ADDRESS.sub("", repr(thing))


def _structure(model: object) -> list[str]:
    """List modules, their settings, and the source files of their classes."""
    parts: dict[str, object] = {"": model}
    lines = []
    if isinstance(model, nn.Module):
        parts = dict(model.named_modules())
        lines.append(ADDRESS.sub("", repr(model)))
    for name, part in parts.items():
        lines.append(f"{name} {type(part).__module__}.{type(part).__qualname__}")
        config = getattr(part, "config", None)
        if config is not None and _describes_itself(config):
            lines.append(ADDRESS.sub("", repr(config)))
        if isinstance(part, nn.Module):
            lines += _settings(part)
    classes = {type(part) for part in parts.values()}
    files = {_source_file(kind) for kind in classes if not kind.__module__.startswith("torch.")}
    return lines + sorted(text for file in files for text in _text_of(file))


def _settings(module: nn.Module) -> Iterator[str]:
    """Yield the attributes of a module that are plain values or functions."""
    for name, value in sorted(vars(module).items()):
        if name in NO_SETTINGS:
            continue
        if _is_plain(value):
            yield f"{name} {value!r}"
        elif inspect.isroutine(value):
            yield f"{name} {value.__module__}.{value.__qualname__}"


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _source_file(kind: type) -> str:
    try:
        return inspect.getfile(kind)
    except (TypeError, OSError):
        return ""


def _text_of(file: str) -> list[str]:
    try:
        return [Path(file).read_text(encoding="utf-8")]
    except (OSError, UnicodeDecodeError):
        return []


def _state(model: object) -> Iterator[tuple[str, Any]]:
    """Yield names and contents of a module's tensors, or of all attributes of another object."""
    if isinstance(model, nn.Module):
        tensors = {**model.state_dict(), **dict(model.named_buffers(remove_duplicate=False))}
        for name, tensor in sorted(tensors.items()):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n", _bytes_of(tensor)
        return
    for name, value in sorted(getattr(model, "__dict__", {}).items()):
        if isinstance(value, np.ndarray) and value.dtype != object:
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, torch.Tensor):
            yield f"{name} {value.dtype} {tuple(value.shape)}\n", _bytes_of(value)
        elif isinstance(value, nn.Module):
            yield name, model_fingerprint(value).encode()
        elif value is None or isinstance(value, bool | int | float | str):
            yield name, repr(value).encode()
        else:
            yield name, uuid.uuid4().bytes


def _bytes_of(tensor: torch.Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else b""

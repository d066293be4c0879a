"""Hashes that say whether two embeddings were made by the same thing."""

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
"""Texts whose ids tell tokenizers apart: case, marks, entities, accents, length."""
PICTURES = ((97, 61), (320, 240), (40, 130))
"""Sizes of the noise images that tell preprocessings apart: wide, large, high."""
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
NO_SETTINGS = frozenset({*vars(nn.Module()), "name_or_path"})
"""Attributes of every module, and where transformers found one: they change no embedding."""


def model_fingerprint(model: object) -> str:
    """A hash of a model's weights and buffers, settings, structure and code.

    The settings of a module are its ``config``, and each attribute that is a number, a text, None,
    a tuple of those, or a function, which counts by its name.  A module that counts its calls in
    such an attribute has another hash after each.

    An object that is no module counts with all its attributes; where one of them is neither a
    number, a text, an array nor a module, nothing tells two such objects apart, and the hash is
    this one object's alone.
    """
    found = hashlib.sha256()
    for line in _structure(model):
        found.update(line.encode())
        found.update(b"\0")
    for name, part in _state(model):
        found.update(f"{name} ".encode())
        found.update(part if isinstance(part, bytes) else memoryview(part))
    return found.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of what a tokenizer makes of a few telling texts, and of its description."""
    tokens = tokenizer(list(PROBES))
    found = hashlib.sha256(_description(tokenizer).encode())
    found.update(repr(tokens.tolist()).encode())
    return found.hexdigest()


def preprocess_fingerprint(preprocess: Any) -> str:
    """A text that is the same for two preprocessings that do the same to every image.

    One without a config is known by its description and by what it makes of noise in three sizes:
    two functions of one name, or two objects that do not say their settings, may differ.
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
    return f"{_description(preprocess)} {found.hexdigest()}"


def fingerprint(*parts: str | Sequence[str] | dict[str, Any]) -> str:
    """A hash of plain values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _describes_itself(thing: object) -> bool:
    return type(thing).__repr__ is not object.__repr__


def _description(thing: object) -> str:
    """How a thing describes itself, without addresses, which differ from process to process."""
    if not _describes_itself(thing):
        return f"{type(thing).__module__}.{type(thing).__qualname__}"
    return ADDRESS.sub("", repr(thing))


def _structure(model: object) -> list[str]:
    """What is not in the weights: modules and settings, and the source files of their classes."""
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
    """The attributes of a module that are plain values or functions."""
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
    """Names and contents of a model's tensors, or of all attributes of what is no module."""
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

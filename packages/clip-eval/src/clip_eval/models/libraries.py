"""Loading of other libraries' models: open_clip, transformers, any Python object."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from clip_models.config import nearest
from clip_tokenizer import TokenizerError, get_tokenizer

from clip_eval.errors import EvaluationError
from clip_eval.models.adapters import TowerAdapter, TransformPreprocess
from clip_eval.models.foreign_models import adapt_model
from clip_eval.models.protocols import LoadedModel, TextTokenizer
from clip_eval.models.tower_fit import require_fit


def load_open_clip(spec: str, device: str | torch.device) -> LoadedModel:
    """Load `NAME` or `NAME:WEIGHTS` of open_clip, where WEIGHTS is one of its tags or a file.

    Raises:
        EvaluationError: open_clip is missing, or does not know the model.
    """
    open_clip = _library("open_clip", "open_clip_torch", "open_clip:")
    complete = spec.startswith(("hf-hub:", "local-dir:"))
    name, _, weights = (spec, "", "") if complete else spec.partition(":")
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=weights or None, device=device
        )
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        reason = _unknown_name(open_clip, name, weights) or _first(error)
        raise EvaluationError(f"open_clip:{spec} cannot be loaded: {reason}") from error
    model.eval()
    tokenizer = _open_clip_tokenizer(open_clip, name, model)
    require_fit(model, tokenizer, f"open_clip:{spec}")
    described = json.dumps(open_clip.get_model_preprocess_cfg(model), sort_keys=True, default=str)
    random = not weights and not complete
    note = f"open_clip:{name} has random weights; give open_clip:{name}:TAG-OR-FILE"
    return LoadedModel(
        model=TowerAdapter(model, model.encode_image, model.encode_text, tokenizer),
        tokenizer=tokenizer,
        preprocess=TransformPreprocess(transform, f"open_clip {described}"),
        name=spec,
        warnings=(note,) if random else (),
    )


def _unknown_name(open_clip: Any, name: str, weights: str) -> str:
    """What is wrong with a name or tag that open_clip does not have; empty if it has both."""
    names = open_clip.list_models()
    if ":" in name or Path(name).exists():
        return ""
    if name not in names:
        return f"unknown model {name!r}{nearest(name, names, '`open_clip.list_models()`')}"
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights and weights not in tags and not Path(weights).exists():
        known = nearest(weights, tags, "`open_clip.list_pretrained()`") if tags else ""
        return f"{weights!r} is no file, and no tag of {name}{known}"
    return ""


def _open_clip_tokenizer(open_clip: Any, name: str, model: Any) -> TextTokenizer:
    """Return our tokenizer for models that it knows (the ids are equal), else open_clip's."""
    place = name.removeprefix("local-dir:").removeprefix("hf-hub:")
    length = getattr(model, "context_length", None)
    try:
        return get_tokenizer(place, context_length=length)
    except (TokenizerError, ImportError, OSError):
        return open_clip.get_tokenizer(name)


def load_transformers(spec: str, device: str | torch.device) -> LoadedModel:
    """Load a dual encoder of transformers, from the hub or a directory.

    Raises:
        EvaluationError: transformers is missing, or the model is of an unknown kind.
    """
    transformers = _library("transformers", "transformers", "hf:")
    try:
        model = transformers.AutoModel.from_pretrained(spec).to(device).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(spec)
        text = transformers.AutoTokenizer.from_pretrained(spec)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EvaluationError(f"hf:{spec} cannot be loaded: {_first(error)}") from error
    with _named(f"hf:{spec}"):
        return adapt_model(model, text, processor, name=spec)


def load_object(spec: str, device: str | torch.device) -> LoadedModel:
    """Call `module:factory`, which returns `(model, tokenizer, preprocess)`.

    The factory is called with `device=` if it takes that argument. Modules are searched in Python's
    path and in the working directory.

    Raises:
        EvaluationError: The factory cannot be imported, or returns something else.
    """
    module_name, _, attribute = spec.partition(":")
    try:
        sys.path.insert(0, os.getcwd())
        try:
            factory = getattr(importlib.import_module(module_name), attribute)
        finally:
            sys.path.remove(os.getcwd())
    except (ImportError, AttributeError) as error:
        raise EvaluationError(f"model {spec!r} cannot be imported: {error}") from error
    takes_device = "device" in inspect.signature(factory).parameters
    found = factory(device=device) if takes_device else factory()
    if not isinstance(found, tuple) or len(found) != 3:
        raise EvaluationError(
            f"{spec} must return (model, tokenizer, preprocess), got {type(found).__name__}"
        )
    with _named(spec):
        adapted = adapt_model(*found, name=spec, device=device)
    return replace(adapted, factory=spec)


@contextmanager
def _named(spec: str) -> Iterator[None]:
    """Put the description of a model before the message of an error."""
    try:
        yield
    except EvaluationError as error:
        raise EvaluationError(f"{spec}: {error}") from error


def download_from_hub(repository: str) -> Path:
    """Download the files of a model from a hub repository into the local cache.

    Raises:
        EvaluationError: The repository is neither on the hub nor in the cache.
    """
    hub = _library("huggingface_hub", "huggingface_hub", "hf-hub:")
    try:
        patterns = ["*.json", "*.txt", "*.safetensors", "*.model"]
        return Path(hub.snapshot_download(repository, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"hf-hub:{repository} cannot be fetched: {_first(error)}") from error


def _library(name: str, package: str, prefix: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EvaluationError(
            f"a model given as {prefix}… needs {package}; pip install {package}"
        ) from error


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Loading of other libraries' models: open_clip, transformers, any Python object.

Legend: B batch, T tokens, D width, H and W pixels.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from clip_tokenizer import TokenizerError, get_tokenizer
from PIL import Image
from torch import Tensor, nn

from clip_eval.errors import EvaluationError
from clip_eval.models.adapters import TowerAdapter, TransformPreprocess, as_preprocess
from clip_eval.models.protocols import ImageTextModel, LoadedModel, TextTokenizer

PADDED_TEXT_MODELS = ("clip", "siglip")
"""Model types of transformers whose text tower takes no attention mask."""
MASKED_TEXT_MODELS = ("align", "altclip", "chinese_clip")


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
        raise EvaluationError(f"open_clip:{spec} cannot be loaded: {_first(error)}") from error
    model.eval()
    tokenizer = _open_clip_tokenizer(open_clip, name, model)
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
    kind = model.config.model_type
    if kind not in PADDED_TEXT_MODELS + MASKED_TEXT_MODELS:
        raise EvaluationError(
            f"hf:{spec} is a {kind} model; known dual encoders are "
            f"{', '.join(PADDED_TEXT_MODELS + MASKED_TEXT_MODELS)}; others fit as module:factory"
        )
    tokenizer = _TransformersTokenizer(text, model.config.text_config.max_position_embeddings)

    def encode_image(images: Tensor) -> Tensor:
        return _features(model.get_image_features(pixel_values=images))

    def encode_text(tokens: Tensor) -> Tensor:
        mask = {}
        if kind in MASKED_TEXT_MODELS:
            mask = {"attention_mask": (tokens != text.pad_token_id).long()}
        return _features(model.get_text_features(input_ids=tokens, **mask))

    described = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    return LoadedModel(
        model=TowerAdapter(model, encode_image, encode_text, tokenizer),
        tokenizer=tokenizer,
        preprocess=TransformPreprocess(_ImageProcessor(processor), described),
        name=spec,
    )


class _ImageProcessor:
    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Image.Image) -> Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


class _TransformersTokenizer:
    """Pads to the model's length: SigLIP was trained so, and CLIP ignores padding."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.tokenizer, self.context_length = tokenizer, length

    def __call__(self, texts: list[str]) -> Tensor:
        rows = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        return rows["input_ids"]


def _features(found: Any) -> Tensor:
    """Return the features, which transformers 5 wraps in an output object."""
    return found if isinstance(found, Tensor) else found.pooler_output


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
    model, tokenizer, preprocess = found
    if not isinstance(model, ImageTextModel):
        raise EvaluationError(
            f"{spec}: the model needs encode_image, encode_text and logit_scale, "
            f"{type(model).__name__} lacks some of them"
        )
    if isinstance(model, nn.Module):
        model = model.to(device).eval()
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        preprocess=as_preprocess(preprocess),
        name=spec,
        factory=spec,
    )


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

"""Models of other libraries behind `ImageTextModel`: open_clip, transformers, any Python object.

B batch, T tokens, D width, H and W pixels.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from clip_tokenizer import TokenizerError, get_tokenizer
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from clip_eval.errors import EvaluationError
from clip_eval.models.classifier import (
    ImagePreprocess,
    ImageTextModel,
    TextTokenizer,
    token_lengths,
)

PADDED_TEXT_MODELS = ("clip", "siglip")
"""Model types of transformers that read their padding, or never see it, and want no mask."""
MASKED_TEXT_MODELS = ("align", "altclip", "chinese_clip")
PROBES = ["a cat", "a photo of a dog on the street, 2 of 3"]
EXACT = 1e-4


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """What another library's model consists of here."""

    model: ImageTextModel
    tokenizer: TextTokenizer
    preprocess: ImagePreprocess
    warnings: tuple[str, ...] = ()


class TransformPreprocess:
    """A library's own transform as it is: RGB image to normalised float (3, H, W).

    Args:
        transform: Called in the workers.
        description: The same for two transforms that do the same.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor], description: str) -> None:
        self.transform, self.description = transform, description

    def __call__(self, image: Image.Image) -> Tensor:
        """What the transform makes of an RGB image."""
        return self.transform(image)

    def normalize(self, images: Tensor) -> Tensor:
        """The images: they are normalised already."""
        return images

    def __repr__(self) -> str:
        return f"TransformPreprocess({self.description})"


def as_preprocess(transform: Any) -> ImagePreprocess:
    """A transform with ``normalize``, or any other as `TransformPreprocess`."""
    if hasattr(transform, "normalize"):
        return transform
    return TransformPreprocess(transform, repr(transform))


class ForeignTowers(nn.Module):
    """A library's model with its two towers under our names.

    Args:
        model: The library's model, in evaluation mode.
        encode_image: Normalised pixels (B, 3, H, W) to features (B, D).
        encode_text: Token ids (B, T) to features (B, D).
        tokenizer: Decides whether the text tower gives the same without the padding.
    """

    def __init__(
        self,
        model: nn.Module,
        encode_image: Callable[[Tensor], Tensor],
        encode_text: Callable[[Tensor], Tensor],
        tokenizer: TextTokenizer,
    ) -> None:
        super().__init__()
        self.model = model
        self._image, self._text = encode_image, encode_text
        self._short = _without_padding(model, encode_text, tokenizer)

    @property
    def logit_scale(self) -> Tensor:
        """Log of the factor on cosine similarity."""
        own = dict(self.model.named_parameters(recurse=False))
        return own["logit_scale"] if "logit_scale" in own else -own["temperature"].log()  # ALIGN

    def encode_image(self, images: Tensor) -> Tensor:
        """Features (B, D) of normalised pixels (B, 3, H, W)."""
        return self._image(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Features (B, D) of token ids (B, T), computed without padding where that is exact."""
        return self._text(tokens) if self._short is None else self._short(tokens)


def _without_padding(
    model: nn.Module, encode_text: Callable[[Tensor], Tensor], tokenizer: TextTokenizer
) -> Callable[[Tensor], Tensor] | None:
    """The text tower on columns without padding, if it can do that and gives the same features."""
    device = next(model.parameters()).device
    tokens = tokenizer(PROBES).to(device)
    candidates: list[Callable[[Tensor], Tensor]] = [lambda ids: encode_text(_cut(ids))]
    if isinstance(getattr(model, "attn_mask", None), Tensor):
        candidates.append(_shortened(model))
    with torch.no_grad():
        expected = encode_text(tokens)
        for candidate in candidates:
            try:
                found = candidate(tokens)
            except Exception:  # a tower of fixed length says so in many ways
                continue
            if found.shape == expected.shape and torch.allclose(
                found, expected, rtol=EXACT, atol=EXACT * float(expected.abs().max())
            ):
                return candidate
    return None


def _cut(tokens: Tensor) -> Tensor:
    """The columns up to the longest row's end token, which a padding by that token hides."""
    return tokens[:, : min(int(token_lengths(tokens).max()) + 1, tokens.shape[1])]


class _TextSide(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def _shortened(model: Any) -> Callable[[Tensor], Tensor]:
    """open_clip's plain CLIP with its tables of positions and attention cut to the tokens."""
    side = _TextSide(model)

    def encode(tokens: Tensor) -> Tensor:
        tokens = _cut(tokens)
        length = tokens.shape[1]
        tables = {
            "model.positional_embedding": model.positional_embedding[:length],
            "model.attn_mask": model.attn_mask[:length, :length],
        }
        return functional_call(side, tables, (tokens,))

    return encode


def load_open_clip(spec: str, device: str | torch.device) -> ForeignModel:
    """``NAME`` or ``NAME:WEIGHTS`` of open_clip; WEIGHTS is one of its tags or a file.

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
    return ForeignModel(
        model=ForeignTowers(model, model.encode_image, model.encode_text, tokenizer),
        tokenizer=tokenizer,
        preprocess=TransformPreprocess(transform, f"open_clip {described}"),
        warnings=(note,) if random else (),
    )


def _open_clip_tokenizer(open_clip: Any, name: str, model: Any) -> TextTokenizer:
    """Ours where it knows the model (the ids are the same), else open_clip's."""
    place = name.removeprefix("local-dir:").removeprefix("hf-hub:")
    length = getattr(model, "context_length", None)
    try:
        return get_tokenizer(place, context_length=length)
    except (TokenizerError, ImportError, OSError):
        return open_clip.get_tokenizer(name)


def load_transformers(spec: str, device: str | torch.device) -> ForeignModel:
    """A dual encoder of transformers, from the hub or a directory.

    Raises:
        EvaluationError: transformers is missing, or the model is no dual encoder known here.
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
    return ForeignModel(
        model=ForeignTowers(model, encode_image, encode_text, tokenizer),
        tokenizer=tokenizer,
        preprocess=TransformPreprocess(_ImageProcessor(processor), described),
    )


class _ImageProcessor:
    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Image.Image) -> Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


class _TransformersTokenizer:
    """Padded to the model's length, as SigLIP was trained; CLIP's tower does not see padding."""

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
    """A tensor, or from transformers 5 on the output that holds it."""
    return found if isinstance(found, Tensor) else found.pooler_output


def load_object(spec: str, device: str | torch.device) -> ForeignModel:
    """What ``module:factory`` returns: ``(model, tokenizer, preprocess)``.

    The factory is called with ``device=`` if it takes that, else without arguments.  Modules are
    found as Python finds them, and in the working directory.

    Raises:
        EvaluationError: It cannot be imported, or returns something else.
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
            f"{type(model).__name__} has not all of them"
        )
    if isinstance(model, nn.Module):
        model = model.to(device).eval()
    return ForeignModel(model=model, tokenizer=tokenizer, preprocess=as_preprocess(preprocess))


def download_from_hub(repository: str) -> Path:
    """The files of a hub repository that a model consists of, in the local cache.

    Raises:
        EvaluationError: It is neither on the hub nor in the cache.
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

"""Models, tokenizers and image transforms of any library, in the form that an evaluation takes.

Legend: B batch, T tokens, D width, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clip_eval.errors import EvaluationError
from clip_eval.models.adapters import TowerAdapter, TransformPreprocess, as_preprocess
from clip_eval.models.fingerprints import describe
from clip_eval.models.protocols import (
    ImagePreprocess,
    ImageTextModel,
    LoadedModel,
    TextTokenizer,
)
from clip_eval.models.tower_fit import require_fit
from clip_eval.plurals import count_noun

PADDED_TEXT_MODELS = ("clip", "siglip")
"""Model types of transformers whose text tower takes no attention mask."""
MASKED_TEXT_MODELS = ("align", "altclip", "chinese_clip")


def adapt_model(
    model: Any, tokenizer: Any, preprocess: Any, *, name: str = "", device: Any = None
) -> LoadedModel:
    """Put a model, a tokenizer and an image transform into the form that `evaluate` takes.

    Args:
        model: One of open_clip, or a part of it that was cut out; a dual encoder of transformers;
            or any object with `encode_image`, `encode_text` and `logit_scale` (log of the factor on
            cosine similarity). A module is put into evaluation mode.
        tokenizer: Texts to token ids (B, T), as a tensor, an array, lists of equal length or a
            mapping with `input_ids`; a tokenizer or a processor of transformers.
        preprocess: A transform of an RGB image to normalized pixels (3, H, W), such as
            open_clip's; an image processor or a processor of transformers; or an
            `ImagePreprocess`, which normalizes on the device.
        name: Name of the model in results.
        device: Where a module is moved to; None leaves it where it is.

    Raises:
        EvaluationError: A part lacks what it needs, or gives something else than it should.
    """
    if isinstance(model, nn.Module):
        model = (model if device is None else model.to(device)).eval()
    images = _adapt_preprocess(preprocess)
    if _is_of_transformers(model):
        _check_kind(model)
        texts = _adapt_tokenizer(tokenizer, _context_length(model))
        require_fit(model, texts)
        return LoadedModel(
            model=_adapt_transformers(model, texts), tokenizer=texts, preprocess=images, name=name
        )
    if not isinstance(model, ImageTextModel):
        lacking = [
            n for n in ("encode_image", "encode_text", "logit_scale") if not hasattr(model, n)
        ]
        raise EvaluationError(
            f"the model needs encode_image, encode_text and logit_scale, and {type(model).__name__}"
            f" lacks {', '.join(lacking)}; a TowerAdapter gives it these names"
        )
    texts = _adapt_tokenizer(tokenizer, _context_length(model))
    require_fit(model, texts)
    return LoadedModel(model=model, tokenizer=texts, preprocess=images, name=name)


def _adapt_transformers(model: Any, tokenizer: TextTokenizer) -> TowerAdapter:
    """Give a dual encoder of transformers the interface of `ImageTextModel`."""
    padding = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", 0)
    has_mask = model.config.model_type in MASKED_TEXT_MODELS

    def encode_image(images: Tensor) -> Tensor:
        return _features(model.get_image_features(pixel_values=images))

    def encode_text(tokens: Tensor) -> Tensor:
        mask = {}
        if has_mask:
            mask = {"attention_mask": (tokens != padding).long()}
        return _features(model.get_text_features(input_ids=tokens, **mask))

    return TowerAdapter(model, encode_image, encode_text, tokenizer)


def _features(found: Any) -> Tensor:
    """Return the features, which transformers 5 wraps in an output object."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _is_of_transformers(model: object) -> bool:
    is_transformer = hasattr(getattr(model, "config", None), "model_type")
    return is_transformer and not hasattr(model, "encode_image")


def _check_kind(model: Any) -> None:
    """Refuse a model of transformers that is no known dual encoder."""
    kind, known = model.config.model_type, PADDED_TEXT_MODELS + MASKED_TEXT_MODELS
    if kind not in known:
        raise EvaluationError(
            f"it is a {kind} model; known dual encoders are {', '.join(known)}; others fit with "
            "encode_image, encode_text and logit_scale, as module:factory"
        )


def _context_length(model: Any) -> int | None:
    """Return the number of tokens that a text tower reads, if the model says it."""
    text_config = getattr(getattr(model, "config", None), "text_config", None)
    length = getattr(text_config, "max_position_embeddings", None)
    return length or getattr(model, "context_length", None)


class _ImageProcessorTransform:
    """An image processor of transformers as a transform: RGB image to pixels (3, H, W)."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Image.Image) -> Tensor:
        """Apply the processor to an RGB image."""
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


def _adapt_preprocess(preprocess: Any) -> ImagePreprocess:
    processor = getattr(preprocess, "image_processor", preprocess)
    if hasattr(processor, "preprocess") and hasattr(processor, "to_dict"):
        return _adapt_image_processor(processor)
    adapted = as_preprocess(preprocess)
    pixels = adapted(Image.new("RGB", (48, 32), (90, 120, 150)))
    if not isinstance(pixels, Tensor) or pixels.dim() != 3:
        shape = f" of shape {tuple(pixels.shape)}" if hasattr(pixels, "shape") else ""
        raise EvaluationError(
            "the preprocessing must turn an image into a tensor (3, H, W), got "
            f"{type(pixels).__name__}{shape}; a torchvision transform needs ToTensor"
        )
    return adapted


def _adapt_image_processor(processor: Any) -> TransformPreprocess:
    """Wrap an image processor of transformers."""
    described = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    return TransformPreprocess(_ImageProcessorTransform(processor), described)


class _TransformersTokenizer:
    """Pads to the model's length: SigLIP was trained so, and CLIP ignores padding."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.tokenizer, self.context_length = tokenizer, length

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids of the texts (B, T)."""
        rows = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        return rows["input_ids"]


class _CheckedTokenizer:
    """A tokenizer whose ids are made a tensor and checked, whatever form they come in."""

    def __init__(self, tokenizer: Callable[[list[str]], Any]) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # not set yet, as while a copy is made
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    def __repr__(self) -> str:
        return describe(self.tokenizer)

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids of the texts (B, T)."""
        rows = self.tokenizer(texts)
        if hasattr(rows, "keys") and "input_ids" in rows:
            rows = rows["input_ids"]
        try:
            rows = rows if isinstance(rows, Tensor) else torch.as_tensor(np.asarray(rows))
        except (TypeError, ValueError) as error:
            raise EvaluationError(
                f"the tokenizer must give rows of equal length, token ids (B, T): {error}"
            ) from error
        if rows.dim() != 2 or len(rows) != len(texts) or rows.is_floating_point():
            raise EvaluationError(
                f"the tokenizer must turn {count_noun(len(texts), 'text')} into token ids "
                f"({len(texts)}, T), got {str(rows.dtype).removeprefix('torch.')} of shape "
                f"{tuple(rows.shape)}"
            )
        return rows


def _adapt_tokenizer(tokenizer: Any, length: int | None) -> TextTokenizer:
    if hasattr(tokenizer, "image_processor"):  # a processor of transformers holds both
        tokenizer = tokenizer.tokenizer
    if hasattr(tokenizer, "model_max_length") and hasattr(tokenizer, "pad_token_id"):
        return _TransformersTokenizer(tokenizer, length or tokenizer.model_max_length)
    if not callable(tokenizer):
        raise EvaluationError(
            f"the tokenizer must be called with a list of texts, got {type(tokenizer).__name__}"
        )
    return _CheckedTokenizer(tokenizer)

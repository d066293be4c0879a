"""Adapters that give another library's model the interface of `ImageTextModel`.

Legend: B batch, T tokens, D width, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from clip_eval.models.protocols import ImagePreprocess, TextTokenizer
from clip_eval.models.zero_shot import token_lengths

PROBES = ["a cat", "a photo of a dog on the street, 2 of 3"]
EXACT = 1e-4


class TransformPreprocess:
    """Another library's transform, unchanged: RGB image to normalized float (3, H, W).

    Args:
        transform: Called in the loader's workers.
        description: Identifies what the transform does, for the embedding cache.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor], description: str) -> None:
        self.transform, self.description = transform, description

    def __call__(self, image: Image.Image) -> Tensor:
        """Apply the transform to an RGB image."""
        return self.transform(image)

    def normalize(self, images: Tensor) -> Tensor:
        """Return the images, which are normalized already."""
        return images

    def __repr__(self) -> str:
        return f"TransformPreprocess({self.description})"


def as_preprocess(transform: Any) -> ImagePreprocess:
    """Wrap a transform in `TransformPreprocess`, unless it has `normalize`."""
    if hasattr(transform, "normalize"):
        return transform
    return TransformPreprocess(transform, repr(transform))


class TowerAdapter(nn.Module):
    """Another library's model as an `ImageTextModel`.

    Args:
        model: The library's model, in evaluation mode.
        encode_image: Normalized pixels (B, 3, H, W) to features (B, D).
        encode_text: Token ids (B, T) to features (B, D).
        tokenizer: Makes the tokens of a trial: if the text tower gives the same features without
            padding, padding is cut off.
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
        self._short = _find_unpadded(model, encode_text, tokenizer)

    @property
    def logit_scale(self) -> Tensor:
        """Log of the factor on cosine similarity."""
        own = dict(self.model.named_parameters(recurse=False))
        return own["logit_scale"] if "logit_scale" in own else -own["temperature"].log()  # ALIGN

    def encode_image(self, images: Tensor) -> Tensor:
        """Features (B, D) of normalized pixels (B, 3, H, W)."""
        return self._image(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Features (B, D) of token ids (B, T), computed without padding where that is exact."""
        return self._text(tokens) if self._short is None else self._short(tokens)


def _find_unpadded(
    model: nn.Module, encode_text: Callable[[Tensor], Tensor], tokenizer: TextTokenizer
) -> Callable[[Tensor], Tensor] | None:
    """Return a text tower that computes no padding, if one gives the same features."""
    device = next(model.parameters()).device
    tokens = tokenizer(PROBES).to(device)
    candidates: list[Callable[[Tensor], Tensor]] = [lambda ids: encode_text(_cut(ids))]
    if isinstance(getattr(model, "attn_mask", None), Tensor):
        candidates.append(_cut_tables(model))
    with torch.no_grad():
        expected = encode_text(tokens)
        for candidate in candidates:
            try:
                found = candidate(tokens)
            except Exception:  # a tower of fixed length raises many kinds of error
                continue
            if found.shape == expected.shape and torch.allclose(
                found, expected, rtol=EXACT, atol=EXACT * float(expected.abs().max())
            ):
                return candidate
    return None


def _cut(tokens: Tensor) -> Tensor:
    """Cut the columns behind the end token of the longest row; padding may be that token."""
    return tokens[:, : min(int(token_lengths(tokens).max()) + 1, tokens.shape[1])]


class _TextSide(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def _cut_tables(model: Any) -> Callable[[Tensor], Tensor]:
    """Run open_clip's CLIP with positions and attention mask cut to the length of the tokens."""
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

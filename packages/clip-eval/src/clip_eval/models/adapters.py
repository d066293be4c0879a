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


class TowerAdapter(nn.Module):
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

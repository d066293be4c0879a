"""What an evaluation needs of a model, as protocols.

Legend: B batch, T tokens, D width, H and W pixels.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from PIL import Image
from torch import Tensor


@runtime_checkable
class ImageTextModel(Protocol):
    """A model with an image and a text tower.

    ``encode_image``: normalised pixels, float (B, 3, H, W) → features (B, D).
    ``encode_text``: token ids, long (B, T) → features (B, D).
    ``logit_scale``: log of the factor on cosine similarity, a scalar tensor.
    """

    @property
    def logit_scale(self) -> Tensor:
        """Log of the factor on cosine similarity."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Features of images."""

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Features of texts."""


class TextTokenizer(Protocol):
    """``texts → LongTensor (B, T)``, padded."""

    def __call__(self, texts: list[str], /) -> Tensor:
        """Token ids of the texts."""


class ImagePreprocess(Protocol):
    """What a model wants done to an image, in the worker and on the device."""

    def __call__(self, image: Image.Image, /) -> Tensor:
        """An RGB Pillow image → uint8 (3, H, W)."""

    def normalize(self, images: Tensor, /) -> Tensor:
        """uint8 (B, 3, H, W) → float (B, 3, H, W), on the same device."""

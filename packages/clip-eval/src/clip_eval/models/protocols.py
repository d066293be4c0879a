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

    `encode_image`: normalized pixels, float (B, 3, H, W), to features (B, D).
    `encode_text`: token ids, long (B, T), to features (B, D).
    `logit_scale`: log of the factor on cosine similarity, a scalar tensor.
    """

    @property
    def logit_scale(self) -> Tensor:
        """Log of the factor on cosine similarity."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Features of images."""

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Features of texts."""


class TextTokenizer(Protocol):
    """A tokenizer: texts to padded token ids, long (B, T)."""

    def __call__(self, texts: list[str], /) -> Tensor:
        """Token ids of the texts."""


class ImagePreprocess(Protocol):
    """A preprocessing: one method for the loader's workers, one for the device."""

    def __call__(self, image: Image.Image, /) -> Tensor:
        """RGB Pillow image to uint8 (3, H, W)."""

    def normalize(self, images: Tensor, /) -> Tensor:
        """uint8 (B, 3, H, W) to float (B, 3, H, W), on the same device."""
